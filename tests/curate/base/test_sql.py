"""Names and texts in SQL; conditions themselves are tested in tests/test_conditions.py."""

import duckdb
import pytest

from curate.base.sql import literal, message_of, quoted


@pytest.mark.parametrize("text", ["plain", "it's", "''", 'a "b"', "a\nb; --"])
def test_names_and_texts_come_back_as_they_were(text):
    relation = duckdb.connect().sql(f"SELECT {literal(text)} AS {quoted(text)}")
    assert relation.columns == [text] and relation.fetchall() == [(text,)]


def test_the_message_of_an_error_is_a_line_without_its_class():
    with pytest.raises(duckdb.Error) as caught:
        duckdb.connect().execute("SELECT * FROM nowhere")
    message = message_of(caught.value)
    assert message.startswith("Table with name nowhere does not exist") and "\n" not in message
