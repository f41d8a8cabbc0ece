-- ListUsers finds users by their address in any state, verified or not. The index of 0001 covers verified addresses of
-- active users only.
CREATE INDEX users_by_any_email ON users (email_normal, user_bucket, id) WHERE email_normal IS NOT NULL;
