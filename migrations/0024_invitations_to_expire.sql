-- What housekeeping asks for: pending invitations that have expired, in any organization.
CREATE INDEX invitations_to_expire ON invitations (expire_time) WHERE state = 'PENDING';
