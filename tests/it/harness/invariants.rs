//! The invariants of a database, which hold after every call.

use super::Database;

/// Each invariant with a query that counts its violations.
const INVARIANTS: &[(&str, &str)] = &[
    (
        "an organization that is not pending has one owner, who is a member as admin",
        "SELECT count(*) FROM organizations o WHERE (o.owner_id IS NULL) <> (o.state = 'PENDING')
            OR (o.owner_id IS NOT NULL AND NOT EXISTS (
                SELECT FROM memberships m WHERE m.bucket = o.bucket AND m.organization_id = o.id
                AND m.user_id = o.owner_id AND m.role = 'admin'))",
    ),
    (
        "a pending organization has no members",
        "SELECT count(*) FROM organizations o JOIN memberships m ON m.bucket = o.bucket AND m.organization_id = o.id
         WHERE o.state = 'PENDING'",
    ),
    (
        "the owner of an organization that is not deleted is active",
        "SELECT count(*) FROM organizations o JOIN users u ON u.id = o.owner_id
         WHERE o.delete_time IS NULL AND u.state <> 'ACTIVE'",
    ),
    (
        "every member is a known user who is not erased",
        "SELECT count(*) FROM memberships m LEFT JOIN users u ON u.id = m.user_id
         WHERE u.id IS NULL OR u.state = 'ERASED'",
    ),
    (
        "every organization holds exactly its own slug",
        "SELECT count(*) FROM organizations o FULL JOIN slugs s ON s.organization_id = o.id
         WHERE s.slug IS DISTINCT FROM o.slug",
    ),
    (
        "a bucket's log is dense and ends at its head",
        "SELECT count(*) FROM log_heads h LEFT JOIN (
             SELECT bucket, count(*) AS rows, min(position) AS first, max(position) AS last FROM log GROUP BY bucket
         ) l USING (bucket)
         WHERE h.position <> coalesce(l.rows, 0) OR coalesce(l.first, 1) <> 1 OR coalesce(l.last, 0) <> h.position",
    ),
    (
        "a users' bucket's log is dense and ends at its head",
        "SELECT count(*) FROM user_log_heads h LEFT JOIN (
             SELECT user_bucket, count(*) AS rows, max(position) AS last FROM user_log GROUP BY user_bucket
         ) l USING (user_bucket)
         WHERE h.position <> coalesce(l.rows, 0) OR coalesce(l.last, 0) <> h.position",
    ),
    (
        "a head was written when its newest row was, and the users' heads too",
        "SELECT count(*) FROM (
             SELECT h.write_time, coalesce(l.write_time, 'epoch') AS newest FROM log_heads h LEFT JOIN log l
             ON l.bucket = h.bucket AND l.position = h.position
             UNION ALL
             SELECT h.write_time, coalesce(l.write_time, 'epoch') FROM user_log_heads h LEFT JOIN user_log l
             ON l.user_bucket = h.user_bucket AND l.position = h.position) heads
         WHERE write_time <> newest",
    ),
    (
        "in a bucket, the rows of one transaction have one write time, and those of a later transaction a later one",
        "SELECT count(*) FROM (
             SELECT commit_position, write_time, lag(commit_position) OVER bucket AS commit_before,
                    lag(write_time) OVER bucket AS time_before
             FROM log WINDOW bucket AS (PARTITION BY bucket ORDER BY position)
             UNION ALL
             SELECT position, write_time, lag(position) OVER bucket, lag(write_time) OVER bucket
             FROM user_log WINDOW bucket AS (PARTITION BY user_bucket ORDER BY position)) l
         WHERE CASE WHEN commit_position = commit_before THEN write_time <> time_before
                    ELSE write_time <= time_before END",
    ),
    (
        "every log row has the kind of its organization",
        "SELECT count(*) FROM log l JOIN organizations o ON o.bucket = l.bucket AND o.id = l.organization_id
         WHERE l.kind <> o.kind",
    ),
    (
        "an organization's events are dense and end at its revision",
        "SELECT count(*) FROM organizations o LEFT JOIN (
             SELECT organization_id, count(*) AS rows, min(revision) AS first, max(revision) AS last
             FROM events GROUP BY organization_id
         ) e ON e.organization_id = o.id
         WHERE e.rows IS DISTINCT FROM o.revision OR e.first <> 1 OR e.last <> o.revision",
    ),
    (
        "each event has its log row, and each log row its event",
        "SELECT count(*) FROM events e FULL JOIN log l
         ON l.bucket = e.bucket AND l.organization_id = e.organization_id AND l.revision = e.revision
         WHERE e.revision IS NULL OR l.revision IS NULL",
    ),
    (
        "in an organization, positions follow revisions",
        "SELECT count(*) FROM (
             SELECT revision, lag(revision) OVER (PARTITION BY bucket, organization_id ORDER BY position) AS before
             FROM log) rows
         WHERE revision < before",
    ),
    (
        "replaying the log gives the table of memberships",
        "WITH last AS (
             SELECT DISTINCT ON (bucket, organization_id, user_id) organization_id, user_id, role, position
             FROM log WHERE entry = 'MEMBERSHIP' ORDER BY bucket, organization_id, user_id, position DESC
         ), purged AS (SELECT organization_id FROM log WHERE state = 'PURGED'),
         replayed AS (
             SELECT organization_id, user_id, role FROM last
             WHERE role IS NOT NULL AND organization_id NOT IN (SELECT organization_id FROM purged))
         SELECT count(*) FROM replayed r
         FULL JOIN memberships m ON m.organization_id = r.organization_id AND m.user_id = r.user_id
         WHERE r.role IS DISTINCT FROM m.role",
    ),
    (
        "replaying the log gives the roles of organizations",
        "WITH last AS (
             SELECT DISTINCT ON (bucket, organization_id, role) organization_id, role, permissions, replaced_by
             FROM log WHERE entry = 'ROLE' ORDER BY bucket, organization_id, role, position DESC)
         SELECT count(*) FROM (
             SELECT * FROM last WHERE permissions IS NOT NULL
             AND organization_id NOT IN (SELECT organization_id FROM log WHERE state = 'PURGED')) l
         FULL JOIN organization_roles r ON r.organization_id = l.organization_id AND r.name = l.role
         WHERE (l.permissions, l.replaced_by) IS DISTINCT FROM (r.permissions, r.replaced_by)",
    ),
    (
        "a role that replaces another one is not replaced itself",
        "SELECT count(*) FROM organization_roles r JOIN organization_roles o
         ON (o.bucket, o.organization_id, o.name) = (r.bucket, r.organization_id, r.replaced_by)
         WHERE o.replaced_by IS NOT NULL",
    ),
    (
        "the revisions of the access model are dense and end at the present one, and every head has its number",
        "SELECT (SELECT count(*) FROM log_heads h, access_model m WHERE (h.model_revision, h.model_time) <> (m.revision, m.write_time))
                + (SELECT count(*) FROM access_model m LEFT JOIN access_model_revisions r USING (revision)
                   WHERE m.revision <> (SELECT count(*) FROM access_model_revisions)
                      OR m.revision < (SELECT max(revision) FROM access_model_revisions)
                      OR m.write_time <> coalesce(r.create_time, 'epoch') OR m.model <> coalesce(r.model, '{}'))",
    ),
    (
        "the newest log row of an organization matches its row",
        "WITH last AS (
             SELECT DISTINCT ON (bucket, organization_id) organization_id, state, owner_id, slug
             FROM log WHERE entry = 'ORGANIZATION' ORDER BY bucket, organization_id, position DESC)
         SELECT count(*) FROM (SELECT * FROM last WHERE state <> 'PURGED') l
         FULL JOIN organizations o ON o.id = l.organization_id
         WHERE l.state IS DISTINCT FROM CASE WHEN o.delete_time IS NULL THEN o.state ELSE 'DELETED' END
            OR l.owner_id IS DISTINCT FROM o.owner_id OR l.slug IS DISTINCT FROM o.slug",
    ),
    (
        "the newest row of the users' log about a user matches the user's row",
        "WITH last AS (
             SELECT DISTINCT ON (user_id) user_id, state FROM user_log ORDER BY user_id, position DESC)
         SELECT count(*) FROM users u LEFT JOIN last l ON l.user_id = u.id
         WHERE coalesce(l.state, 'ACTIVE') <> u.state",
    ),
    (
        "the latest reinstatement in the users' log about a user matches the user's row",
        "SELECT count(*) FROM users u LEFT JOIN (
             SELECT user_id, max(reinstated_at) AS reinstated_at FROM user_log GROUP BY user_id
         ) l ON l.user_id = u.id
         WHERE l.reinstated_at IS DISTINCT FROM u.reinstated_at",
    ),
    (
        "a user's events are dense and end at their revision",
        "SELECT count(*) FROM users u LEFT JOIN (
             SELECT user_id, count(*) AS rows, max(revision) AS last FROM user_events GROUP BY user_id
         ) e ON e.user_id = u.id
         WHERE e.rows IS DISTINCT FROM u.revision OR e.last <> u.revision",
    ),
    (
        "a recipient has at most one pending invitation into an organization",
        "SELECT count(*) FROM (
             SELECT FROM invitations WHERE state = 'PENDING'
             GROUP BY organization_id, is_email, identifier_normal HAVING count(*) > 1) twice",
    ),
    (
        "an invitation names the known user who accepted it if and only if it is accepted",
        "SELECT count(*) FROM invitations i LEFT JOIN users u ON u.id = i.accepted_by
         WHERE (i.state = 'ACCEPTED') <> (i.accepted_by IS NOT NULL) OR (i.accepted_by IS NOT NULL AND u.id IS NULL)",
    ),
    (
        "every invitation is in the bucket of an existing organization",
        "SELECT count(*) FROM invitations i LEFT JOIN organizations o ON o.id = i.organization_id
         WHERE o.bucket IS DISTINCT FROM i.bucket",
    ),
    (
        "no invitation into a deleted organization is pending",
        "SELECT count(*) FROM invitations i JOIN organizations o ON o.id = i.organization_id
         WHERE o.delete_time IS NOT NULL AND i.state = 'PENDING' AND i.expire_time > clock_timestamp()",
    ),
    (
        "every token belongs to an existing invitation of the same organization",
        "SELECT count(*) FROM invitation_tokens t LEFT JOIN invitations i ON i.id = t.invitation_id
         WHERE (i.bucket, i.organization_id) IS DISTINCT FROM (t.bucket, t.organization_id)",
    ),
    (
        "no invitation has more than five tokens",
        "SELECT count(*) FROM (
             SELECT FROM invitation_tokens GROUP BY invitation_id HAVING count(*) > 5) more",
    ),
    (
        "a waiting mail is about an unanswered and unrevoked invitation of its organization, or about a known user",
        "SELECT count(*) FROM outbox m
         LEFT JOIN organizations o ON o.bucket = m.bucket AND o.id = m.organization_id
         LEFT JOIN invitations i ON i.id = m.invitation_id AND i.organization_id = m.organization_id
             AND i.is_email AND i.state IN ('PENDING', 'EXPIRED')
         LEFT JOIN users u ON u.id = m.user_id
         WHERE o.id IS NULL OR coalesce(i.id::text, u.id) IS NULL",
    ),
    (
        "the mail of an invitation is WAITING if and only if it is in the outbox",
        "SELECT count(*) FROM invitations i LEFT JOIN (SELECT DISTINCT invitation_id FROM outbox) m ON m.invitation_id = i.id
         WHERE (i.mail_state IS NOT DISTINCT FROM 'WAITING') <> (m.invitation_id IS NOT NULL)",
    ),
    (
        "no pending invitation makes an owner of an organization that has one",
        "SELECT count(*) FROM invitations i JOIN organizations o ON o.bucket = i.bucket AND o.id = i.organization_id
         WHERE i.state = 'PENDING' AND i.makes_owner AND o.owner_id IS NOT NULL",
    ),
    (
        "an invitation has one event of its creation and at most one of its end",
        "SELECT count(*) FROM invitations i LEFT JOIN (
             SELECT organization_id, new ->> 'invitation' AS id,
                    count(*) FILTER (WHERE type = 'invitation.created') AS made,
                    array_agg(type) FILTER (WHERE type IN ('invitation.accepted', 'invitation.declined',
                                                           'invitation.revoked', 'invitation.expired')) AS ends
             FROM events WHERE type LIKE 'invitation.%' GROUP BY 1, 2
         ) e ON e.organization_id = i.organization_id AND e.id = i.id::text
         WHERE e.made IS DISTINCT FROM 1 OR coalesce(e.ends, '{}'::text[]) <>
             CASE i.state WHEN 'PENDING' THEN '{}'::text[] ELSE ARRAY['invitation.' || lower(i.state)] END",
    ),
    (
        "an erased recipient is a hash, and the recipient of an invitation that an erased user accepted is erased",
        "SELECT count(*) FROM invitations i LEFT JOIN users u ON u.id = i.accepted_by
         WHERE CASE WHEN i.recipient_erased THEN i.identifier <> i.identifier_normal OR i.identifier !~ '^[0-9a-f]{64}$'
                    ELSE u.state IS NOT DISTINCT FROM 'ERASED' END",
    ),
    (
        "no stored answer has an address",
        "SELECT count(*) FROM requests WHERE answer::text ~ '\"(given|normal)\": \"[^\"]'",
    ),
    ("no stored answer lacks its content", "SELECT count(*) FROM requests WHERE answer IS NULL"),
];

impl Database {
    /// Asserts every invariant.
    pub async fn assert_invariants(&self) {
        for (rule, query) in INVARIANTS {
            let broken = self.count(query).await;
            assert_eq!(broken, 0, "{rule}: {broken} violations");
        }
        let types = "SELECT type FROM events UNION SELECT type FROM user_events";
        for written in sqlx::query_scalar::<_, String>(types).fetch_all(&self.pool).await.unwrap() {
            assert!(roster::domain::event::EventType::parse(&written).is_ok(), "unknown event type: {written}");
        }
    }

    /// Asserts that no transaction is open. Waits up to 10 s for transactions that are ending.
    pub async fn assert_no_open_transactions(&self) {
        const OPEN: &str = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL";
        let all_ended = async {
            while self.count(OPEN).await != 0 {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(10), all_ended).await;
        if waited.is_err() {
            let open: Vec<String> = sqlx::query_scalar(
                "SELECT concat_ws(' ', pid, state, clock_timestamp() - xact_start, clock_timestamp() - query_start, query) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL",
            )
            .fetch_all(&self.pool)
            .await
            .unwrap();
            panic!("transactions were left open: {open:#?}");
        }
    }
}
