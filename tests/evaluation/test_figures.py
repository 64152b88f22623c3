"""Figures of reports: what a name says is inside the picture, however long it is and whatever it holds."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from medssl.evaluation.report.figures import (
    case_figure,
    confusion_figure,
    interval_figure,
    label_figure,
    ranking_figure,
)

_RUNS = [f"finetune_from_scratch_unet3d_labels16_seed{k}-ab12cd" for k in range(2)]
_CLASSES = [f"lesion with a {kind} rim and $\\frac$, not otherwise specified (histologically proven)" for kind in "ab"]
_MEAN = {"estimate": 0.5, "low": 0.4, "high": 0.6}


def _figures() -> dict[str, Figure]:
    of_labels = [{"labels": n, "arms": {run: {"mean": _MEAN, "seeds": {0: 0.5}} for run in _RUNS}} for n in (1, 16)]
    return {
        "interval": interval_figure([(group, run, _MEAN) for group in _CLASSES for run in _RUNS], "Dice"),
        "case": case_figure({name: [0.1, 0.4] for name in _CLASSES}, "Dice"),
        "many cases": case_figure({f"{name} {k}": [0.1] for name in _CLASSES for k in range(3)}, "Dice"),
        "label": label_figure(of_labels, "Dice"),
        "ranking": ranking_figure([(name, dict.fromkeys(_RUNS, _MEAN)) for name in _CLASSES], "difference"),
        "confusion": confusion_figure([[3, 1], [2, 5]], _CLASSES),
    }


@pytest.mark.parametrize("kind", _figures())
@pytest.mark.filterwarnings("error")
def test_long_names_are_inside_the_picture_and_leave_room_for_it(kind: str):
    figure = _figures()[kind]
    FigureCanvasAgg(figure).draw()
    axes = figure.axes[0]
    texts = [*axes.get_xticklabels(), *axes.get_yticklabels(), *(t for key in figure.legends for t in key.get_texts())]
    for text in (t for t in texts if any(letter.isalpha() for letter in t.get_text())):
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1, text.get_text()
    assert axes.bbox.height > 60
    assert axes.bbox.width > 150
    assert len({text.get_text() for key in figure.legends for text in key.get_texts()}) in (0, len(_RUNS))
