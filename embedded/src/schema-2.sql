-- To whom nothing more is sent: addresses by their hash alone.
CREATE TABLE suppressions (address BLOB PRIMARY KEY, cause TEXT NOT NULL, since INTEGER NOT NULL) STRICT, WITHOUT ROWID;
