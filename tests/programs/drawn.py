"""The figures that a program draws, to be asked what is in them."""

from matplotlib.figure import Figure


def figures(monkeypatch):
    """A list that gets every figure that is saved from here on."""
    saved, save = [], Figure.savefig

    def and_keep(figure, *args, **kwargs):
        saved.append(figure)
        result = save(figure, *args, **kwargs)
        figure.draw_without_rendering()  # places at the figure's own resolution, not that of the file
        return result

    monkeypatch.setattr(Figure, "savefig", and_keep)
    return saved
