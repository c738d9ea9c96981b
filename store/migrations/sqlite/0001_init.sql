-- Times are milliseconds since the Unix epoch; ids are UUIDs as text.
CREATE TABLE hosts (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    api_id TEXT NOT NULL UNIQUE,
    key_hash TEXT NOT NULL,
    key_digest TEXT,
    key_version BIGINT NOT NULL DEFAULT 1,
    -- presence: the newest connection's number, and the hint of who holds it
    epoch BIGINT NOT NULL DEFAULT 0,
    connected BIGINT NOT NULL DEFAULT 0,
    secure BIGINT NOT NULL DEFAULT 0,
    gateway_id TEXT,
    connected_at BIGINT,
    disconnected_at BIGINT,
    replacements BIGINT NOT NULL DEFAULT 0,
    replacements_since BIGINT NOT NULL DEFAULT 0,
    flapping_until BIGINT NOT NULL DEFAULT 0,
    -- what its owner wants
    update_interval BIGINT NOT NULL DEFAULT 60,
    settings_revision BIGINT NOT NULL DEFAULT 0,
    settings_seen BIGINT NOT NULL DEFAULT 0,
    docker_enabled BIGINT NOT NULL DEFAULT 0,
    compliance_mode TEXT NOT NULL DEFAULT 'on-demand',
    openscap_enabled BIGINT NOT NULL DEFAULT 1,
    docker_bench_enabled BIGINT NOT NULL DEFAULT 0,
    -- its terminals: old algorithms are offered; recorded or not (null: as the server's default)
    ssh_legacy BIGINT NOT NULL DEFAULT 0,
    record_terminals BIGINT,
    -- what its agent told
    agent_version TEXT,
    last_seen_at BIGINT,
    reported_at BIGINT,
    os_type TEXT NOT NULL DEFAULT '',
    os_version TEXT NOT NULL DEFAULT '',
    hostname TEXT NOT NULL DEFAULT '',
    ip TEXT NOT NULL DEFAULT '',
    architecture TEXT NOT NULL DEFAULT '',
    kernel_version TEXT NOT NULL DEFAULT '',
    packages BIGINT NOT NULL DEFAULT 0,
    updates BIGINT NOT NULL DEFAULT 0,
    security_updates BIGINT NOT NULL DEFAULT 0,
    needs_reboot BIGINT NOT NULL DEFAULT 0,
    reboot_reason TEXT NOT NULL DEFAULT '',
    created_at BIGINT NOT NULL
);
CREATE INDEX hosts_held ON hosts (gateway_id) WHERE connected = 1;

CREATE TABLE host_reports (
    host_id TEXT NOT NULL PRIMARY KEY REFERENCES hosts (id) ON DELETE CASCADE,
    body TEXT NOT NULL,
    received_at BIGINT NOT NULL
);

CREATE TABLE integration_status (
    host_id TEXT NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    integration TEXT NOT NULL,
    body TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    PRIMARY KEY (host_id, integration)
);

CREATE TABLE compliance_scans (
    id TEXT NOT NULL PRIMARY KEY,
    host_id TEXT NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    profile_type TEXT NOT NULL,
    profile_name TEXT NOT NULL,
    status TEXT NOT NULL,
    score DOUBLE PRECISION,
    body TEXT NOT NULL,
    received_at BIGINT NOT NULL
);
CREATE INDEX compliance_scans_host ON compliance_scans (host_id, id);
CREATE INDEX compliance_scans_age ON compliance_scans (received_at);

-- host_id has no foreign key: the commands of a removed host stay until retention.
CREATE TABLE commands (
    id TEXT NOT NULL PRIMARY KEY,
    host_id TEXT NOT NULL,
    batch_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    payload TEXT NOT NULL,
    state TEXT NOT NULL,
    final BIGINT NOT NULL DEFAULT 0,
    exclusive BIGINT NOT NULL DEFAULT 0,
    attempt BIGINT NOT NULL DEFAULT 0,
    losses BIGINT NOT NULL DEFAULT 0,
    refusals BIGINT NOT NULL DEFAULT 0,
    asked_epoch BIGINT NOT NULL DEFAULT 0,
    held_epoch BIGINT,
    not_before BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    next_check_at BIGINT,
    cancel_requested_at BIGINT,
    last_sign_at BIGINT,
    returned_at BIGINT,
    queued_at BIGINT,
    waiting_at BIGINT,
    sending_at BIGINT,
    sent_at BIGINT,
    delivered_at BIGINT,
    running_at BIGINT,
    succeeded_at BIGINT,
    failed_at BIGINT,
    cancelled_at BIGINT,
    unconfirmed_at BIGINT,
    expired_at BIGINT,
    ended_at BIGINT,
    evidence TEXT,
    error TEXT,
    notes TEXT NOT NULL DEFAULT '{}',
    requested_by TEXT NOT NULL,
    traceparent TEXT
);
CREATE INDEX commands_due ON commands (next_check_at) WHERE next_check_at IS NOT NULL;
CREATE INDEX commands_open ON commands (host_id, state) WHERE final = 0;
CREATE UNIQUE INDEX commands_one_scan ON commands (host_id)
    WHERE exclusive = 1 AND state IN ('sending', 'sent', 'delivered', 'running');
CREATE INDEX commands_batch ON commands (batch_id, id);
CREATE INDEX commands_host ON commands (host_id, id);
CREATE INDEX commands_ended ON commands (ended_at) WHERE ended_at IS NOT NULL;
-- The oldest of each kind and state that is open, and the newest of each kind: their ends are what dashboards show.
CREATE INDEX commands_standing ON commands (kind, state, id) WHERE final = 0;
CREATE INDEX commands_kind ON commands (kind, id);

-- How many commands are in each state: kept by triggers, so that counting a million rows costs a dozen.
CREATE TABLE command_counts (
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    n BIGINT NOT NULL,
    PRIMARY KEY (kind, state)
);
CREATE TRIGGER commands_count_in AFTER INSERT ON commands BEGIN
    INSERT INTO command_counts (kind, state, n) VALUES (NEW.kind, NEW.state, 1)
    ON CONFLICT (kind, state) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER commands_count_move AFTER UPDATE OF state ON commands WHEN OLD.state <> NEW.state BEGIN
    UPDATE command_counts SET n = n - 1 WHERE kind = OLD.kind AND state = OLD.state;
    INSERT INTO command_counts (kind, state, n) VALUES (NEW.kind, NEW.state, 1)
    ON CONFLICT (kind, state) DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER commands_count_out AFTER DELETE ON commands BEGIN
    UPDATE command_counts SET n = n - 1 WHERE kind = OLD.kind AND state = OLD.state;
END;

-- How many commands ended in each minute since the Unix epoch, kept the same way.
CREATE TABLE command_ends (
    minute BIGINT NOT NULL,
    kind TEXT NOT NULL,
    n BIGINT NOT NULL,
    PRIMARY KEY (minute, kind)
);
CREATE TRIGGER commands_end AFTER UPDATE OF ended_at ON commands WHEN OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL BEGIN
    INSERT INTO command_ends (minute, kind, n) VALUES (NEW.ended_at / 60000, NEW.kind, 1)
    ON CONFLICT (minute, kind) DO UPDATE SET n = n + 1;
END;

-- Worker processes; the queue's own table of workers knows queues, not processes.
CREATE TABLE worker_processes (
    id TEXT NOT NULL PRIMARY KEY,
    host TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at BIGINT NOT NULL
);
CREATE INDEX worker_processes_seen ON worker_processes (seen_at);

CREATE TABLE idempotency_keys (
    username TEXT NOT NULL,
    key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    answer TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (username, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- One row: when the fleet's next paced command may go.
CREATE TABLE pace (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    next_at BIGINT NOT NULL
);
INSERT INTO pace (id, next_at) VALUES (1, 0);

CREATE TABLE schedule_ticks (
    name TEXT NOT NULL,
    tick BIGINT NOT NULL,
    PRIMARY KEY (name, tick)
);

CREATE TABLE roles (
    name TEXT NOT NULL,
    permission TEXT NOT NULL,
    PRIMARY KEY (name, permission)
);

CREATE TABLE users (
    id TEXT NOT NULL PRIMARY KEY,
    username TEXT NOT NULL,
    name_key TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    role TEXT NOT NULL,
    active BIGINT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL,
    last_login_at BIGINT
);

CREATE TABLE sessions (
    id TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    idle_ms BIGINT NOT NULL,
    last_activity_at BIGINT NOT NULL,
    revoked_at BIGINT,
    address TEXT NOT NULL,
    user_agent TEXT NOT NULL
);
CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_age ON sessions (expires_at);

-- One-time passes, by their SHA-256. host_id: what it opens; null is the dashboard.
CREATE TABLE tickets (
    digest TEXT NOT NULL PRIMARY KEY,
    user_id TEXT NOT NULL,
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    host_id TEXT,
    expires_at BIGINT NOT NULL
);
CREATE INDEX tickets_session ON tickets (session_id, expires_at);
CREATE INDEX tickets_age ON tickets (expires_at);

-- Dashboards that a ticket opened, by the SHA-256 of their cookie.
CREATE TABLE dashboard_sessions (
    digest TEXT NOT NULL PRIMARY KEY,
    session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    expires_at BIGINT NOT NULL
);
CREATE INDEX dashboard_sessions_session ON dashboard_sessions (session_id, expires_at);
CREATE INDEX dashboard_sessions_age ON dashboard_sessions (expires_at);

-- Terminals: a row from their opening on. No foreign keys: the rows outlive the host and the user, whose names they carry.
CREATE TABLE terminal_sessions (
    id TEXT NOT NULL PRIMARY KEY,
    host_id TEXT NOT NULL,
    host_name TEXT NOT NULL,
    user_id TEXT NOT NULL,
    username TEXT NOT NULL,
    address TEXT NOT NULL,
    gateway_id TEXT NOT NULL,
    mode TEXT NOT NULL,
    target TEXT NOT NULL,
    opened_at BIGINT NOT NULL,
    connected_at BIGINT,
    ended_at BIGINT,
    reason TEXT,
    bytes_in BIGINT NOT NULL DEFAULT 0,
    bytes_out BIGINT NOT NULL DEFAULT 0,
    shed BIGINT NOT NULL DEFAULT 0,
    exit_status BIGINT,
    -- the host's agent may hold the shell
    at_agent BIGINT NOT NULL DEFAULT 0,
    -- its recording, and what its chunks come to
    recorded BIGINT NOT NULL DEFAULT 0,
    chunks BIGINT NOT NULL DEFAULT 0,
    stored_bytes BIGINT NOT NULL DEFAULT 0,
    raw_bytes BIGINT NOT NULL DEFAULT 0,
    recorded_ms BIGINT NOT NULL DEFAULT 0
);
CREATE INDEX terminal_sessions_host ON terminal_sessions (host_id, id);
CREATE INDEX terminal_sessions_user ON terminal_sessions (user_id, id);
CREATE INDEX terminal_sessions_open ON terminal_sessions (id) WHERE ended_at IS NULL;
CREATE INDEX terminal_sessions_open_user ON terminal_sessions (user_id, id) WHERE ended_at IS NULL;
CREATE INDEX terminal_sessions_open_host ON terminal_sessions (host_id, id) WHERE ended_at IS NULL;
CREATE INDEX terminal_sessions_open_gateway ON terminal_sessions (gateway_id, id) WHERE ended_at IS NULL;
CREATE INDEX terminal_sessions_at_agent ON terminal_sessions (host_id, id) WHERE at_agent = 1;
CREATE INDEX terminal_sessions_ended ON terminal_sessions (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX terminal_sessions_recorded ON terminal_sessions (id) WHERE recorded = 1;
CREATE INDEX terminal_sessions_recorded_ended ON terminal_sessions (ended_at) WHERE recorded = 1;

CREATE TABLE recording_chunks (
    terminal_id TEXT NOT NULL REFERENCES terminal_sessions (id) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    chunk BLOB NOT NULL,
    PRIMARY KEY (terminal_id, number)
);

-- Who did what. An id is a UUIDv7 of the store's own clock, so their order is that of time. No foreign keys, as above.
CREATE TABLE audit_log (
    id TEXT NOT NULL PRIMARY KEY,
    at BIGINT NOT NULL,
    event TEXT NOT NULL,
    user_id TEXT,
    username TEXT,
    address TEXT NOT NULL,
    host_id TEXT,
    host_name TEXT,
    session_id TEXT,
    mode TEXT,
    target TEXT,
    reason TEXT,
    duration_ms BIGINT,
    bytes_in BIGINT,
    bytes_out BIGINT
);
CREATE INDEX audit_log_host ON audit_log (host_id, id) WHERE host_id IS NOT NULL;
CREATE INDEX audit_log_user ON audit_log (user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX audit_log_session ON audit_log (session_id, id) WHERE session_id IS NOT NULL;
CREATE INDEX audit_log_event ON audit_log (event, id);

-- The key that a host's SSH server showed first, a port.
CREATE TABLE ssh_host_keys (
    host_id TEXT NOT NULL REFERENCES hosts (id) ON DELETE CASCADE,
    port BIGINT NOT NULL,
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    first_seen_at BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    PRIMARY KEY (host_id, port)
);

-- The oldest program that can live with this schema.
CREATE TABLE schema_floor (
    id BIGINT NOT NULL PRIMARY KEY CHECK (id = 1),
    oldest_version TEXT NOT NULL
);
INSERT INTO schema_floor (id, oldest_version) VALUES (1, '0.1.0');
