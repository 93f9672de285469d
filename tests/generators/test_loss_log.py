from __future__ import annotations

import torch
from lightning import LightningModule, Trainer

from anomalib_lite.generators.base import LossLog, read_losses


class OneLoss(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, index):
        loss = (self.weight**2).sum()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_trainer_writes_its_losses_and_a_second_one_goes_on(tmp_path):
    path = tmp_path / "losses.jsonl"
    for _ in range(2):
        trainer = Trainer(
            max_epochs=1, logger=LossLog(path), log_every_n_steps=1, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(OneLoss(), torch.utils.data.DataLoader(range(3), batch_size=1))
    losses = read_losses(path)
    values = losses[losses["name"] == "loss"]
    assert values["step"].tolist() == [0, 1, 2, 0, 1, 2]
    assert values["value"].iloc[0] == 1 and values["value"].iloc[2] < values["value"].iloc[1] < 1


def test_torn_lines_and_numbers_that_are_none_are_left_out(tmp_path):
    path = tmp_path / "losses.jsonl"
    LossLog(path).log_metrics({"a": 1.5, "b": float("nan")}, step=3)
    with path.open("a") as stream:
        stream.write('{"step": 4, "a"')
    assert read_losses(path).values.tolist() == [[3, "a", 1.5]]
    assert read_losses(tmp_path / "absent").empty
