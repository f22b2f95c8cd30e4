"""Tables and one static HTML page, made from run folders alone."""

from dirprune.report.comparison import read_comparison, write_results
from dirprune.report.comparison_page import print_comparison
from dirprune.report.html import write_report
from dirprune.report.summary import Spread, VariantSummary, summarise
from dirprune.report.terminal import print_table
from dirprune.report.wording import Headline, headline

__all__ = [
    "Headline",
    "Spread",
    "VariantSummary",
    "headline",
    "print_comparison",
    "print_table",
    "read_comparison",
    "summarise",
    "write_report",
    "write_results",
]
