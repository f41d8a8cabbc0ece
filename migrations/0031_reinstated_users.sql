-- When an operator last reinstated a user, in whole seconds since 1970; NULL if none has. Bearer tokens of the user that
-- were issued at that time or before no longer count. In the users' log, the row of the reinstatement has it: in other
-- rows, also in those of servers of release 0.3, NULL changes nothing. Such a server knows the user as an active one, and
-- accepts the older tokens.
DO $$
BEGIN
    ALTER TABLE users ADD COLUMN reinstated_at bigint;
    ALTER TABLE user_log ADD COLUMN reinstated_at bigint;
END
$$;
