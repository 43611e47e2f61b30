-- Connection tickets by their hash: whom each speaks for (JSON), until when, and when the token ends that it was got with.
CREATE TABLE tickets (key BLOB PRIMARY KEY, until INTEGER NOT NULL, token_expires_at INTEGER NOT NULL, recipient TEXT NOT NULL) STRICT, WITHOUT ROWID;
