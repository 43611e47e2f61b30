-- Everything Recado keeps on one machine. Moments are microseconds since 1970, positions and notification ids 16 bytes
-- in big-endian order, so that bytes compare as they do.

-- Single values: `last_position` is the highest position ever given (R6).
CREATE TABLE facts (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT, WITHOUT ROWID;

-- Queues. AUTOINCREMENT: a message id, and with it an acknowledgement token, never comes back.
-- `lease` is the receive count of the lease that holds the message, null when none does.
CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL,
    visible_at INTEGER NOT NULL,
    received INTEGER NOT NULL DEFAULT 0,
    lease INTEGER,
    attributes TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX messages_due ON messages (queue, visible_at);

CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue INTEGER NOT NULL,
    dead_at INTEGER NOT NULL,
    attributes TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX dead_letters_queue ON dead_letters (queue);

-- Recipients by their joined key, with their marks (R7, R8).
CREATE TABLE recipients (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, read_up_to BLOB, pending_from BLOB) STRICT;

-- What an event shows, once for all its recipients. The first one stored under an id wins.
CREATE TABLE notifications (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    name BLOB NOT NULL,
    collect_at INTEGER NOT NULL,
    content TEXT NOT NULL,
    UNIQUE (tenant, name)
) STRICT;
CREATE INDEX notifications_collect ON notifications (collect_at);

-- One inbox lies together, in the order of its positions.
CREATE TABLE entries (
    recipient INTEGER NOT NULL,
    position BLOB NOT NULL,
    notification INTEGER NOT NULL,
    expires_at INTEGER,
    acked_at INTEGER,
    read_at INTEGER,
    archived_at INTEGER,
    PRIMARY KEY (recipient, position)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX entries_notification ON entries (notification, recipient);

-- Connections as their users' rows, and the reverse item, which keeps what was registered. `row` is JSON.
CREATE TABLE connections (
    recipient TEXT NOT NULL,
    id TEXT NOT NULL,
    registered_at INTEGER NOT NULL,
    row TEXT NOT NULL,
    PRIMARY KEY (recipient, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE connection_owners (id TEXT PRIMARY KEY, registered_at INTEGER NOT NULL, recipient TEXT NOT NULL, row TEXT NOT NULL) STRICT, WITHOUT ROWID;

-- Who sends which mail.
CREATE TABLE mail_claims (
    recipient TEXT NOT NULL,
    notification BLOB NOT NULL,
    holder TEXT,
    held_until INTEGER NOT NULL,
    sent_at INTEGER,
    collect_at INTEGER NOT NULL,
    PRIMARY KEY (recipient, notification)
) STRICT, WITHOUT ROWID;
CREATE INDEX mail_claims_collect ON mail_claims (collect_at);

-- The mailbox that captures mail.
CREATE TABLE mails (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sent_at INTEGER NOT NULL,
    sender TEXT NOT NULL,
    recipient TEXT NOT NULL,
    subject TEXT NOT NULL,
    message BLOB NOT NULL
) STRICT;
