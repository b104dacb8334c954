"""``dao data``: training data from what is there, one verb a file."""

from __future__ import annotations

import typer

from dao.cli.data import crysdb, deduplicate, hull, relax

app = typer.Typer(help="Make training data.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(crysdb.app, name="crysdb")
app.command(epilog=deduplicate.EXAMPLES)(deduplicate.deduplicate)
app.command(epilog=hull.EXAMPLES)(hull.hull)
app.command(epilog=relax.EXAMPLES)(relax.relax)
