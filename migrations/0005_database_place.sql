-- The place of this database: the system identifier of its Postgres cluster, and the oid of the database in it. Unknown
-- until `roster migrate` has stored it. A dump that was restored is in another place than the one that it names, so its log
-- may lack writes that were acknowledged, and `roster migrate` raises the epoch.
ALTER TABLE datastore ADD COLUMN system_identifier bigint, ADD COLUMN database_oid bigint;
