"""`RectifierMonitor` records a Lightning training without changing it."""

import signal

import numpy as np
import pytest
import torch
from helpers import nothing_is_left
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import spectroscope

pl = pytest.importorskip("lightning.pytorch", reason="needs lightning, of the extra [lightning]")
events = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator",
    reason="needs tensorboard, of the extra [tensorboard]",
)

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger  # noqa: E402

from spectroscope.training.lightning import RectifierMonitor  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        # Lightning's own: of a torch that is newer than it,
        r"`isinstance\(treespec, LeafSpec\)` is deprecated",
        # and advice on what these tests leave small on purpose.
        "The number of training batches .* is smaller than the logging interval",
        "The '.*_dataloader' does not have many workers",
    )
]


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
def test_no_validation_data_is_said(tmp_path):
    data = DataLoader(TensorDataset(torch.randn(8, 1, 16)), batch_size=4)
    options = {"max_epochs": 1, "logger": False, "enable_progress_bar": False,
               "enable_checkpointing": False, "enable_model_summary": False,
               "default_root_dir": tmp_path, "accelerator": "cpu"}  # fmt: skip
    monitor = RectifierMonitor("network")
    with pytest.warns(UserWarning, match="records nothing: this training has no validation data"):
        pl.Trainer(callbacks=[monitor], **options).fit(Network(), data)
    pl.Trainer(callbacks=[RectifierMonitor("network", during="training")], **options).fit(
        Network(), data
    )  # warnings are errors


class Network(pl.LightningModule):
    """Runs a part of itself in each step, as most do, and keeps what its ReLU gives."""

    def __init__(self, fails=lambda where, module: None):
        super().__init__()
        self.network = nn.Sequential(
            nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(),
            nn.Linear(4 * 14, 1),
        )  # fmt: skip
        self.fails = fails
        self.seen = {}
        self.network[2].register_forward_hook(self.keep)

    def keep(self, relu, inputs, output):
        trainer = self._trainer
        stage = "sanity" if trainer.sanity_checking else "train" if self.training else "val"
        key = (stage, trainer.current_epoch)
        self.seen.setdefault(key, []).append(output.detach().double())

    def step(self, batch, where):
        self.fails(where, self)
        return self.network(batch[0]).square().mean()

    def training_step(self, batch, number):
        loss = self.step(batch, "training")
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, number, dataloader_idx=0):
        self.log("val_loss", self.step(batch, "validation"))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def data(size=20):
    return DataLoader(TensorDataset(torch.randn(size, 1, 16)), batch_size=8)


def trainer(folder, *callbacks, **options):
    options = {"max_epochs": 3, "logger": False, "enable_checkpointing": False} | options
    return pl.Trainer(
        accelerator="cpu", default_root_dir=folder, callbacks=list(callbacks), barebones=False,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip


def expected(outputs):
    """What is to be logged of the outputs ``[N, 4, T]`` of the one ReLU."""
    y = torch.cat(outputs)
    dc = y.mean(2)
    on = (y > 0).double()
    return {
        "dc_out": dc.mean(),
        "dc_out_std": dc.std(0, correction=0).mean(),
        "dc_fraction": dc.square().sum() * y.shape[2] / y.square().sum(),
        "active_fraction": on.mean(),
        "dead_fraction": (on.amax((0, 2)) == 0).double().mean(),
    }


def curves(folder):
    """Of each tag (steps, values) in the event files below `folder`."""
    (file,) = folder.rglob("events.*")
    metrics = events.EventAccumulator(str(file))
    metrics.Reload()
    return {
        tag: ([e.step for e in metrics.Scalars(tag)], [e.value for e in metrics.Scalars(tag)])
        for tag in metrics.Tags()["scalars"]
    }


@pytest.mark.parametrize("during", ["validation", "training"])
def test_training_is_bit_identical(tmp_path, during):
    states = []
    torch.manual_seed(1)
    train, validation = data(), data()
    for callbacks in ([], [RectifierMonitor(during=during)]):
        torch.manual_seed(2)
        network = Network()
        fit = trainer(tmp_path, *callbacks)
        fit.fit(network, train, validation)
        states.append(network.state_dict() | fit.callback_metrics | {"rng": torch.get_rng_state()})
        assert nothing_is_left()
    assert states[0].keys() == states[1].keys()
    for name, tensor in states[0].items():
        assert torch.equal(tensor, states[1][name]), name
    assert callbacks[0].tracker.sites()["n_samples"].tolist() == [20] * 3


@pytest.mark.parametrize("during", ["validation", "training"])
def test_event_files_match_the_outputs_of_the_relu(tmp_path, during):
    monitor, network = RectifierMonitor(during=during), Network()
    with torch.no_grad():
        network.network[1].bias[:2] -= torch.tensor(
            [9.0, 1.0]
        )  # of four channels one is dead, or two
    fit = trainer(tmp_path, monitor, logger=TensorBoardLogger(tmp_path))
    fit.fit(network, data(), data(12))
    assert ("sanity", 0) in network.seen
    stage = {"validation": "val", "training": "train"}[during]
    metrics = curves(tmp_path)
    wanted = [expected(network.seen[stage, epoch]) for epoch in range(3)]
    assert 0 < wanted[0]["dead_fraction"] < 1
    for name in wanted[0]:
        steps, values = metrics.pop(f"{name}/network.2#0")
        assert steps == [3, 6, 9] == monitor.tracker.numbers()["global_step"].tolist()
        np.testing.assert_allclose(values, [float(w[name]) for w in wanted], rtol=1e-5)
    assert sorted(metrics) == ["epoch", "val_loss"]


def test_all_dataloaders_are_recorded_and_all_loggers_log(tmp_path):
    monitor = RectifierMonitor()
    loggers = [CSVLogger(tmp_path, "a"), CSVLogger(tmp_path, "b")]
    trainer(tmp_path, monitor, logger=loggers, max_epochs=1).fit(
        Network(), data(), [data(5), data(9)]
    )
    assert monitor.tracker.sites()["n_samples"].tolist() == [14]
    for logger in loggers:
        assert "dc_out/network.2#0" in next(tmp_path.glob(f"{logger.name}/*/*.csv")).read_text()


def test_training_batches_are_logged_at_each_validation(tmp_path):
    monitor = RectifierMonitor(during="training")
    trainer(tmp_path, monitor, max_epochs=2, val_check_interval=2).fit(Network(), data(), data())
    # Batches of 8, 8, 4, and a validation after two.
    assert monitor.tracker.sites()["n_samples"].tolist() == [16, 4, 16, 4]
    assert monitor.tracker.numbers()["global_step"].tolist() == [2, 3, 5, 6]


@pytest.mark.filterwarnings("ignore:RectifierMonitor records nothing")
def test_no_validation_logs_nothing_and_validate_alone_is_recorded(tmp_path):
    monitor, network = RectifierMonitor(), Network()
    fit = trainer(tmp_path, monitor, limit_val_batches=0)
    fit.fit(network, data(), data())
    assert monitor.tracker.epochs == 0
    assert monitor.tracker.sites().empty
    again = trainer(tmp_path, monitor)
    again.validate(network, data(6), verbose=False)
    assert monitor.tracker.sites()["n_samples"].tolist() == [6]
    # Weights are those of the same module since training began.
    weights = monitor.tracker.weights()
    assert weights[weights["epoch"] == 1]["distance"].gt(0).all()
    again.validate(Network(), data(7), verbose=False)
    assert monitor.tracker.sites()["n_samples"].tolist() == [7]
    assert nothing_is_left()


def test_options_go_to_the_tracker(tmp_path):
    network = Network()
    network.network.extend([nn.GELU(), nn.ReLU()])
    monitor = RectifierMonitor(select=["network.2", "network.6"], kinds=["GELU"], weights=())
    trainer(tmp_path, monitor, max_epochs=1).fit(network, data(), data())
    assert monitor.tracker.sites()["site"].tolist() == ["network.2#0", "network.6#0"]
    assert monitor.tracker.weights().empty
    with pytest.raises(spectroscope.RequestError, match="during='fit' must be"):
        RectifierMonitor(during="fit")
    with pytest.raises(spectroscope.RequestError, match="matches no activation"):
        trainer(tmp_path, RectifierMonitor(select="nowhere")).fit(network, data(), data())
    with pytest.raises(spectroscope.RequestError, match="the model has no module='net'"):
        trainer(tmp_path, RectifierMonitor("net")).fit(network, data(), data())


def test_fs_is_that_of_the_named_submodule(tmp_path):
    monitor = RectifierMonitor("network", fs=32.0, spectra=True)
    trainer(tmp_path, monitor, max_epochs=1).fit(Network(), data(), data())
    spectra = monitor.tracker.report(1).spectra("2#0")
    assert spectra["freq_unit"].unique() == ["Hz"]
    np.testing.assert_allclose(spectra["freq"].unique(), np.arange(8) * 32 / 14)


@pytest.mark.parametrize(
    ("during", "where", "error"),
    [
        ("validation", "validation", RuntimeError),
        ("validation", "training", RuntimeError),
        ("training", "training", RuntimeError),
        ("training", "validation", RuntimeError),
        ("validation", "validation", KeyboardInterrupt),
        ("training", "training", KeyboardInterrupt),
    ],
)
def test_no_hooks_are_left_after_errors(tmp_path, during, where, error):
    def fails(stage, module):
        if stage == where and module._trainer.current_epoch == 1:
            raise error

    monitor = RectifierMonitor(during=during)
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit if error is KeyboardInterrupt else error):
            trainer(tmp_path, monitor).fit(Network(fails), data(), data())
    finally:
        signal.signal(signal.SIGINT, before)  # which Lightning ignores from then on
    assert nothing_is_left()
    # The epoch that raised is none; of training it is the next, unless that had been all.
    whole = during == "training" and where == "validation"
    assert monitor.tracker.sites()["n_samples"].tolist() == [20] * (2 if whole else 1)
    trainer(tmp_path, monitor, max_epochs=1).fit(Network(), data(), data())
    assert monitor.tracker.sites()["n_samples"].tolist() == [20]


def test_checkpoints_do_not_contain_the_callback(tmp_path):
    monitor, path = RectifierMonitor(), tmp_path / "one.ckpt"
    fit = trainer(tmp_path, monitor, max_epochs=1)
    fit.fit(Network(), data(), data())
    fit.save_checkpoint(path)
    assert torch.load(path, weights_only=True)["callbacks"] == {}
    trainer(tmp_path, monitor, max_epochs=2).fit(Network(), data(), data(), ckpt_path=path)
    assert monitor.tracker.numbers()["global_step"].tolist() == [6]
