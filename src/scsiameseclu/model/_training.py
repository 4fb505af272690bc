"""Training of the model, checks of its arguments, and the record of its results."""

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
    "Expected the model's own AnnData, found {}, which reads cells in sequence. Training looks up the neighbours of "
    "every cell, and needs random access. Copy a collection of files with SCSiameseClu.setup_mapped (or "
    "scsiameseclu.pp.write_mapped), and train without a datamodule."
)


class TrainingMixin(UnsupervisedTrainingMixin, ModelProtocol):
    """Training in two phases: pretraining, then clustering."""

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
            Total number of epochs. The epochs are divided between pretraining and clustering as in the default
            schedule. By default the number follows from the number of cells
            (:class:`~scsiameseclu.train.Schedule`). A model that already has clusters gets only the clustering epochs.
            Such a model is trained further, or was mapped to a query.
        accelerator, devices
            As in scvi-tools. For several devices, give ``n_clusters`` as a number, and pass
            ``strategy="ddp_find_unused_parameters_true"``, because each phase leaves some weights unused. Correlation
            losses and transport targets are computed over the cells of all processes.
        train_size, validation_size, shuffle_set_split
            Split of the cells into training and validation cells. By default all cells are training cells. If an
            argument needs validation cells, 90 % of the cells are training cells by default. Such arguments are
            ``early_stopping``, ``check_val_every_n_epoch``, a checkpoint of the best epoch, and
            ``plan_kwargs={"reduce_lr_on_plateau": True}``.
        batch_size
            Cells per batch on each device. The default is 256, and more on a GPU if there are many cells
            (:func:`~scsiameseclu.train.default_batch_size`). The last batch of an epoch is dropped if it is incomplete
            and not the only batch. The default learning rate grows if all devices together use more than 256 cells per
            step (:func:`~scsiameseclu.train.learning_rate`).
        early_stopping
            Stop when ``validation_loss`` has not improved for 3 epochs of the clustering phase. Pretraining is never
            shortened. The ``early_stopping_*`` arguments of scvi-tools change these settings.
        datasplitter_kwargs
            Further arguments of :class:`scvi.dataloaders.DataSplitter`, and ``on_device``. With ``on_device=True`` the
            data, which must be in memory, are copied to the device of the training, counts as CSR, and the batches are
            formed there. The batches are the same as without copying. By default the data are copied if the training
            runs on one GPU, and the data are in memory and take at most half of the free memory of the GPU.
        plan_kwargs
            Arguments of :class:`~scsiameseclu.train.SiameseTrainingPlan`.
        **trainer_kwargs
            Arguments of :class:`scvi.train.Trainer`, such as ``precision="bf16-mixed"``. With
            ``callbacks=[ResumeCheckpoint(path)]`` a training that was killed can be continued: pass ``ckpt_path=path``
            and the same data and arguments (:class:`~scsiameseclu.train.ResumeCheckpoint`). A
            :class:`scvi.train.SaveCheckpoint` among the ``callbacks`` saves only epochs of the clustering phase. A
            ``datamodule`` has to be a :class:`scvi.dataloaders.DataSplitter` of the model's data.

        Raises
        ------
        NotImplementedError
            If ``datamodule`` is not a :class:`scvi.dataloaders.DataSplitter`.
        NonFiniteLossError
            If the loss becomes NaN or infinite. The model keeps the weights of the last good epoch.
        ValueError
            If there are not more training cells than clusters, the training cells do not fill a batch, an argument
            needs validation cells and there are none, ``max_epochs`` is below 1, ``precision`` changes the dtype of the
            weights, or ``on_device=True`` is combined with several processes, workers or pinned memory.
        RuntimeError
            If training ended without a single step.

        Notes
        -----
        An interrupt (Ctrl-C) ends the training. The model keeps the weights so far and can predict. An interrupt before
        the first step leaves the model unchanged. Training a trained model again continues with its clusters.
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
            # A model that already has clusters starts with the clustering phase.
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
        # Lightning warns if an epoch has fewer batches than its logging interval.
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
        """Argument of the data splitter that selects the tensors of the batches.

        If the second view is a partner cell, which has its own tensors, the batches leave out the tensors that only a
        second view of the cell itself needs.
        """
        if not plan_options.get("partner_views", True) or self.module.extra_payload_autotune:
            return {}
        return {"data_and_attributes": view_keys(self.adata_manager, "first")}

    def _check_datamodule(self, datamodule: Any) -> None:
        """Refuse a datamodule without random access. Neighbours and targets are looked up by row number."""
        if datamodule is None:
            return
        if not isinstance(datamodule, DataSplitter):
            raise NotImplementedError(NO_RANDOM_ACCESS.format(f"a {type(datamodule).__name__}"))
        if datamodule.adata_manager is not self.adata_manager:
            raise ValueError(
                "Expected a datamodule of the model's data, found a datamodule of other data; use model.adata_manager."
            )

    def _record_n_clusters(self) -> None:
        """Record the number of clusters, which loading needs to build a module of the right shape."""
        if self.module.head is not None:
            self.init_params_["non_kwargs"]["n_clusters"] = self.module.head.n_clusters

    def _after_training(self, plan: SiameseTrainingPlan) -> None:
        """Record the results of training. The runner calls this method, also after an interrupt."""
        self._record_n_clusters()
        if plan.n_clusters_result is not None:
            self.n_clusters_search_ = plan.n_clusters_result.to_state()
        if not self.is_query_:
            self._remember(settings.seed)
            self._grow_tree()

    @property
    def n_clusters(self) -> int | Literal["auto"]:
        """Number of clusters. ``"auto"`` until the number is chosen."""
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
