"""Training, and what it refuses or records."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scvi import settings
from scvi.dataloaders import DataSplitter
from scvi.model.base import UnsupervisedTrainingMixin
from scvi.train import SaveCheckpoint

from scsiameseclu.data._loader import view_keys
from scsiameseclu.model._protocol import ModelProtocol
from scsiameseclu.model._saved_files import SavedModel
from scsiameseclu.model._split import Split, plain_number, plain_numbers, validation_users
from scsiameseclu.train import Schedule, SiameseTrainingPlan, SiameseTrainRunner
from scsiameseclu.train._checkpoint import follow_clustering
from scsiameseclu.train._messages import quiet_lightning
from scsiameseclu.train._planner import DevicePlan, check_precision

AUTO: Literal["auto"] = "auto"
NO_RANDOM_ACCESS = (
    "Expected the model's own AnnData, found {}: it is read in sequence, while training looks up the neighbours of "
    "every cell. Copy a collection of files to where rows can be looked up with SCSiameseClu.setup_mapped (or "
    "scsiameseclu.pp.write_mapped), and train without a datamodule."
)


class TrainingMixin(UnsupervisedTrainingMixin, ModelProtocol):
    """Two-phase training on the schedule of the package."""

    n_clusters_search_: dict[str, Any] | None

    _training_plan_cls = SiameseTrainingPlan
    _train_runner_cls = SiameseTrainRunner

    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        batch_size: int | None = None,
        early_stopping: bool = False,
        datasplitter_kwargs: dict[str, Any] | None = None,
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model.

        Parameters
        ----------
        max_epochs
            Epochs in all, pretraining and clustering in the proportion of the default schedule. By default the number
            follows from the number of cells (:class:`~scsiameseclu.train.Schedule`); a model that has its clusters
            already (further training, or a reference mapped to a query) gets the clustering epochs only.
        accelerator, devices
            As in scvi-tools. With several devices, give ``n_clusters`` as a number and
            ``strategy="ddp_find_unused_parameters_true"``: each phase leaves some weights unused. Correlation losses
            and transport targets are computed over the cells of all processes, whatever their number.
        train_size, validation_size, shuffle_set_split
            Split of the cells. By default all cells train, or 90 % if something needs cells held out:
            ``early_stopping``, ``check_val_every_n_epoch``, a checkpoint of the best epoch, or
            ``plan_kwargs={"reduce_lr_on_plateau": True}``.
        batch_size
            Cells per batch, on each of several devices; 256 by default, and more on a GPU if there are many cells
            (:func:`~scsiameseclu.train.default_batch_size`). The last, incomplete batch of an epoch is dropped if there
            is more than one. With more than 256 cells per step, all devices together, the default learning rate grows
            (:func:`~scsiameseclu.train.learning_rate`).
        early_stopping
            Stop when ``validation_loss`` has not improved for 3 epochs of the clustering phase. Pretraining always
            runs in full. Change with scvi-tools' ``early_stopping_*`` arguments.
        datasplitter_kwargs
            Further arguments of :class:`scvi.dataloaders.DataSplitter`, and ``on_device``: with True the data, which
            must be in memory, are copied to the one device of the training, counts as CSR, and batches are formed
            there. Batches are the same. By default that is done on one GPU if the data are in memory and take at most
            half of what the GPU has free.
        plan_kwargs
            Arguments of :class:`~scsiameseclu.train.SiameseTrainingPlan`.
        **trainer_kwargs
            Arguments of :class:`scvi.train.Trainer`, such as ``precision="bf16-mixed"``, or
            ``callbacks=[ResumeCheckpoint(path)]`` and, to continue a training that was killed, ``ckpt_path=path`` with
            the same data and arguments (:class:`~scsiameseclu.train.ResumeCheckpoint`). A
            :class:`scvi.train.SaveCheckpoint` among the ``callbacks`` saves epochs of the clustering phase only. A
            ``datamodule`` has to be a :class:`scvi.dataloaders.DataSplitter` of the model's data.

        Raises
        ------
        NotImplementedError
            If another kind of ``datamodule`` is given.
        NonFiniteLossError
            If the loss becomes NaN or infinite; the weights of the last good epoch are kept.
        ValueError
            If there are not more training cells than clusters or no whole batch of them, no cells are held out where
            something needs them, ``max_epochs`` is below 1, ``precision`` changes the dtype of the weights, or
            ``on_device`` is asked for with several processes, workers or pinned memory.
        RuntimeError
            If not a single training step was made.

        Notes
        -----
        An interrupt (Ctrl-C) ends the training and leaves a model that can predict, or, before the first step, the
        model as it was. Training a trained model again
        continues with its clusters.
        """
        self._validate_anndata()
        self._renew_if_changed(self.adata, None)
        datamodule = trainer_kwargs.get("datamodule")
        self._check_datamodule(datamodule)
        for callback in trainer_kwargs.get("callbacks") or []:
            if isinstance(callback, SaveCheckpoint):
                follow_clustering(callback, lambda folder: SavedModel.read(Path(folder)).weights)
        trainer_kwargs, plan_options = (plain_numbers(options or {}) for options in (trainer_kwargs, plan_kwargs))
        max_epochs, batch_size, devices = plain_number(max_epochs), plain_number(batch_size), plain_number(devices)
        split_options = plain_numbers(datasplitter_kwargs or {})
        check_precision(trainer_kwargs.get("precision"))
        held_out_for = validation_users(early_stopping, plan_options, trainer_kwargs)
        if train_size is None:
            held_out = validation_size if validation_size is not None else 0.1 if held_out_for else 0.0
            train_size = 1.0 - held_out
        split = Split.of(self.adata.n_obs, train_size, validation_size, split_options, datamodule)
        split.check_held_out(held_out_for)
        n_train = split.n_train
        on = DevicePlan.of(accelerator, devices, trainer_kwargs.get("strategy"))
        check_enough_cells(self.n_clusters, n_train)
        schedule = Schedule.for_cells(n_train, max_epochs)
        batch_size = on.batch_size(n_train) if batch_size is None else batch_size
        plan_options.setdefault("new_cells", self.is_query_)
        n_pretrain = plan_options.setdefault("n_pretrain_epochs", schedule.n_pretrain)
        head = self.module.head
        plan_options.setdefault("n_clusters", None if head is None else head.n_clusters)
        if plan_options.get("optimizer") != "Custom":
            plan_options.setdefault("lr", on.learning_rate(batch_size))
        if head is not None and head.is_initialised:
            # A model that has its clusters starts with the clustering phase.
            n_pretrain = 0
        if early_stopping:
            trainer_kwargs.setdefault("early_stopping_monitor", "validation_loss")
            trainer_kwargs.setdefault("early_stopping_patience", 3)
            trainer_kwargs.setdefault("early_stopping_warmup_epochs", n_pretrain)
        if max_epochs is None:
            max_epochs = n_pretrain + schedule.n_cluster
        if split.external is not None:
            split_options["external_indexing"] = split.external
        split_options.setdefault("drop_last", on.drops_last(n_train, batch_size))
        split.check_batches(batch_size, split_options["drop_last"])
        wanted = split_options.pop("on_device", AUTO)
        loads_elsewhere = split_options.get("num_workers", settings.dl_num_workers) or split_options.get("pin_memory")
        hold = on.holds_data(self.adata_manager, wanted, bool(loads_elsewhere))
        # An epoch may have fewer batches than Lightning's default interval, which it would warn about.
        trainer_kwargs.setdefault("log_every_n_steps", 1)
        with quiet_lightning(), self.adata_manager.on_device(on.device) if hold else nullcontext():
            super().train(
                max_epochs=max_epochs,
                accelerator=accelerator,
                devices=devices,
                train_size=train_size,
                validation_size=validation_size,
                shuffle_set_split=shuffle_set_split,
                batch_size=batch_size,
                early_stopping=early_stopping,
                datasplitter_kwargs={**self._loaded_keys(plan_options), **split_options},
                plan_kwargs=plan_options,
                **trainer_kwargs,
            )

    def _loaded_keys(self, plan_options: dict[str, Any]) -> dict[str, Any]:
        """Leave out of the batches what only a second view needs, where that is a partner with tensors of its own."""
        if not plan_options.get("partner_views", True) or self.module.extra_payload_autotune:
            return {}
        return {"data_and_attributes": view_keys(self.adata_manager, "first")}

    def _check_datamodule(self, datamodule: Any) -> None:
        """Refuse data that cannot be looked up by row number: neighbours and targets are."""
        if datamodule is None:
            return
        if not isinstance(datamodule, DataSplitter):
            raise NotImplementedError(NO_RANDOM_ACCESS.format(f"a {type(datamodule).__name__}"))
        if datamodule.adata_manager is not self.adata_manager:
            raise ValueError("Expected a datamodule of the model's data, found one of others; use model.adata_manager.")

    def _record_n_clusters(self) -> None:
        """Keep the number of clusters, once chosen: as part of the module's shape it has to be there on loading."""
        if self.module.head is not None:
            self.init_params_["non_kwargs"]["n_clusters"] = self.module.head.n_clusters

    def _after_training(self, plan: SiameseTrainingPlan) -> None:
        """Record what training found out; called by the runner, also after an interrupt."""
        self._record_n_clusters()
        if plan.n_clusters_result is not None:
            self.n_clusters_search_ = plan.n_clusters_result.to_state()
        if not self.is_query_:
            self._remember(settings.seed)
            self._grow_tree()

    @property
    def n_clusters(self) -> int | Literal["auto"]:
        """Number of clusters; ``"auto"`` while it is still to be chosen."""
        head = self.module.head
        return AUTO if head is None else head.n_clusters


def checked_n_clusters(n_clusters: Any) -> int | Literal["auto"]:
    """Return the validated number of clusters as a plain int."""
    if isinstance(n_clusters, str) and n_clusters == AUTO:
        return "auto"
    if isinstance(n_clusters, bool) or not isinstance(n_clusters, int | np.integer):
        raise TypeError(f"Expected n_clusters 'auto' or an integer, found {n_clusters!r}.")
    if n_clusters < 1:
        raise ValueError(f"Expected n_clusters of at least 1, found {n_clusters}.")
    return int(n_clusters)


def check_enough_cells(n_clusters: int | Literal["auto"], n_cells: int) -> None:
    """Refuse fewer cells than the clustering needs."""
    needed = 3 if n_clusters == AUTO else int(n_clusters) + 1
    if n_cells < needed:
        raise ValueError(f"Expected at least {needed} cells for n_clusters={n_clusters!r}, found {n_cells}.")
