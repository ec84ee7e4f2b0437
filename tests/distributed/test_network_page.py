"""The table of what crosses the network is arithmetic, and up to date."""

import pytest


@pytest.fixture
def network(script):
    return script("network_page")


def test_the_page_holds_what_the_script_makes(network):
    text = network.PAGE.read_text()
    assert network.page(text) == text


def test_what_is_sent_by_hand(network):
    shape = network.Shape("", n=1000, c=10, d=5, p=7, passes=2, k=0.1)
    assert shape.rows(4) == 750 * (2 * 15 * 4 + 8) and shape.dealt(4) == 750 * 2 * 15 * 4
    assert shape.coreset(4) == 100 * (8 + 8 + 8 + 4) and shape.step(2) == 4 * 7
