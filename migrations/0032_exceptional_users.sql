-- A copy of the users is a copy of those who are not active, and now also of those who were reinstated. Servers of release
-- 0.3 read the index of 0003. Writes of users wait while the table is read once.
CREATE INDEX users_exceptional ON users (user_bucket, id) WHERE state <> 'ACTIVE' OR reinstated_at IS NOT NULL;
