"""Skip these tests in the source distribution, which has no benchmarks; make benchmarks importable elsewhere."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
collect_ignore_glob = [] if (ROOT / "benchmarks" / "run.py").exists() else ["test_*.py"]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
