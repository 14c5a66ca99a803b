"""The plots of a comparison: drawn by matplotlib, at the width of a column, the same bytes always.

Needs the extra ``report``.
"""

from lora_cl.report.figures.drawing import FORMATS, Plot, require_matplotlib
from lora_cl.report.figures.overview import overview
from lora_cl.report.figures.rows import row_plots
from lora_cl.report.figures.writing import write_figures

__all__ = ["FORMATS", "Plot", "overview", "require_matplotlib", "row_plots", "write_figures"]
