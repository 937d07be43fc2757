import torch

from wbcnets.engine.ema import WeightEma


def test_the_average_is_saved_under_the_models_names():
    model = torch.nn.Linear(2, 2)
    ema = WeightEma(model, decay=0.5)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1)
    ema.update(model, step=1000)
    torch.testing.assert_close(ema.module.weight, start + 0.5)
    assert ema.state_dict().keys() == model.state_dict().keys()
    other = WeightEma(model, decay=0.5)
    other.load_state_dict(ema.state_dict())
    assert torch.equal(other.module.weight, ema.module.weight)
