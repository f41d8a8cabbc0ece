-- The time since which the members of a removed role hold the role that replaces it: their memberships changed then.
ALTER TABLE deployment_roles ADD COLUMN replace_time timestamptz;
