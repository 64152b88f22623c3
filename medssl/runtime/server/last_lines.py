"""Notes of the last line of each audit log, in the data base of jobs: no file tells that its own end is missing."""

from typing import Any

import peewee


class LastLines:
    """Number, seal and mark of the last line of audit logs, by the name of the file.

    Args:
        database: Of `medssl.runtime.server.ledger.open_database`.
    """

    def __init__(self, database: Any) -> None:
        self._database = database

        class Row(peewee.Model):
            name = peewee.CharField(primary_key=True)
            number = peewee.BigIntegerField()
            seal = peewee.CharField()
            mark = peewee.CharField()

            class Meta:
                database = self._database
                table_name = "medssl_audit"

        self._row: Any = Row
        with self._database.connection_context():
            self._database.create_tables([Row])

    def get(self, name: str) -> tuple[int, str, str] | None:
        """Number of lines, seal and mark of a file; None where nothing of it was ever noted."""
        with self._database.connection_context():
            found = self._row.get_or_none(self._row.name == name)
        return None if found is None else (found.number, found.seal, found.mark)

    def names(self) -> list[str]:
        """Files of which something was noted."""
        with self._database.connection_context():
            return [row.name for row in self._row.select().order_by(self._row.name)]

    def keep(self, name: str, number: int, seal: str, mark: str) -> None:
        """Note the last line of a file."""
        row, values = self._row, {"number": number, "seal": seal, "mark": mark}
        with self._database.connection_context(), self._database.atomic():
            row.insert(name=name, **values).on_conflict(conflict_target=[row.name], update=values).execute()
