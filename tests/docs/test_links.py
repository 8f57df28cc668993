"""Every link within the repository leads somewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.documents import ROOT, anchors, documents, links

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_resolves(document: Path) -> None:
    broken = []
    for link in links(document):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        place, _, anchor = link.partition("#")
        target = (document.parent / place).resolve() if place else document
        if not target.exists() or ROOT not in (target, *target.parents) or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_the_documents_do_not_name_places_of_the_machine_that_they_were_written_on() -> None:
    home = str(ROOT)
    for document in documents():
        text = document.read_text(encoding="utf-8")
        assert home not in text, document
        assert "/root/" not in text, document
