"""Tables and one static HTML page, made from run folders alone."""

from dirprune.report.html import write_report
from dirprune.report.summary import Spread, VariantSummary, summarise
from dirprune.report.terminal import print_table
from dirprune.report.wording import Headline, headline

__all__ = ["Headline", "Spread", "VariantSummary", "headline", "print_table", "summarise", "write_report"]
