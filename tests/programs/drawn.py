"""The figures that a program draws, to be asked what is in them."""

from pathlib import Path

from matplotlib.figure import Figure


def figures(monkeypatch, *, write=False):
    """A list that gets every figure that is saved from here on, which takes a while and is left out by default."""
    saved, save = [], Figure.savefig

    def keep(figure, *args, **kwargs):
        saved.append(figure)
        save(figure, *args, **kwargs) if write else Path(args[0]).touch()
        figure.draw_without_rendering()  # everything is at its place, at the figure's own resolution

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved
