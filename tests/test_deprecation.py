"""Names of the last release: they warn, and are the same things."""

import pytest

from advcore import deprecation, errors


def test_an_old_name_warns_and_gives_what_the_new_one_is():
    get = deprecation.forward_renamed("advcore.somewhere", {"must_be": "advcore.errors.must"})
    with pytest.warns(DeprecationWarning, match=r"\.must_be has been renamed to advcore\.errors\.must"):
        assert get("must_be") is errors.must


def test_a_name_that_never_was_is_an_attribute_error():
    get = deprecation.forward_renamed("advcore.somewhere", {})
    with pytest.raises(AttributeError, match=r"'advcore\.somewhere' has no attribute 'nothing'"):
        get("nothing")
