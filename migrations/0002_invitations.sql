-- Invitations: asking somebody in who is not there yet, and the mail that tells them.
--
-- A token is stored as its SHA-256 only, in a table of its own: it is unique over all organizations. The outbox holds
-- what is to be mailed and never a token: that is minted at the moment of sending.

CREATE TABLE invitations (
    bucket smallint NOT NULL,
    organization_id uuid NOT NULL,
    id uuid NOT NULL,
    -- Whom it is for, as given and in its normal form; an address or anything else.
    identifier text NOT NULL,
    identifier_normal text COLLATE "C" NOT NULL,
    is_email boolean NOT NULL,
    role text COLLATE "C" NOT NULL,
    -- Whether it makes the owner of a pending organization.
    makes_owner boolean NOT NULL,
    attributes jsonb NOT NULL,
    -- PENDING also when its time is over: `expire_time` alone tells, and no job needs to have run. It becomes EXPIRED when
    -- the same address is invited again.
    state text NOT NULL,
    inviter_kind text NOT NULL,
    inviter_id text COLLATE "C" NOT NULL,
    accepted_by text COLLATE "C",
    expire_time timestamptz NOT NULL,
    sends integer NOT NULL,
    -- When a token was last sent or given out: the cooldown counts from here.
    send_time timestamptz NOT NULL,
    mail_state text,
    mail_error text,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, organization_id, id),
    CONSTRAINT invitations_state CHECK (state IN ('PENDING', 'ACCEPTED', 'DECLINED', 'REVOKED', 'EXPIRED')),
    CONSTRAINT invitations_role CHECK (role IN ('admin', 'member')),
    CONSTRAINT invitations_attributes CHECK (jsonb_typeof(attributes) = 'object'),
    CONSTRAINT invitations_inviter CHECK (inviter_kind IN ('user', 'service', 'operator')),
    CONSTRAINT invitations_accepted CHECK ((state = 'ACCEPTED') = (accepted_by IS NOT NULL)),
    CONSTRAINT invitations_identifier CHECK (identifier <> '' AND identifier_normal <> ''),
    CONSTRAINT invitations_sends CHECK (sends >= 0),
    CONSTRAINT invitations_mail CHECK (mail_state IN ('WAITING', 'SENT', 'FAILED')),
    CONSTRAINT invitations_organization FOREIGN KEY (bucket, organization_id)
        REFERENCES organizations (bucket, id) ON DELETE CASCADE
);
-- One pending invitation for an address in an organization.
CREATE UNIQUE INDEX invitations_one_pending ON invitations (bucket, organization_id, is_email, identifier_normal)
    WHERE state = 'PENDING';
CREATE INDEX invitations_in_order ON invitations (bucket, organization_id, create_time, id);
CREATE INDEX invitations_received ON invitations (identifier_normal, create_time, id) WHERE state = 'PENDING' AND is_email;
CREATE INDEX invitations_by_id ON invitations (id);

CREATE TABLE invitation_tokens (
    hash bytea PRIMARY KEY,
    bucket smallint NOT NULL,
    organization_id uuid NOT NULL,
    invitation_id uuid NOT NULL,
    create_time timestamptz NOT NULL,
    CONSTRAINT invitation_tokens_hash CHECK (octet_length(hash) = 32)
);
CREATE INDEX invitation_tokens_by_invitation ON invitation_tokens (bucket, organization_id, invitation_id, create_time);

CREATE TABLE outbox (
    bucket smallint NOT NULL,
    id uuid NOT NULL,
    organization_id uuid NOT NULL,
    occasion text NOT NULL,
    -- The invitation that it is about; none for ADDED, which names the user.
    invitation_id uuid,
    user_id text COLLATE "C",
    -- Who invites or adds.
    sender_kind text NOT NULL,
    sender_id text COLLATE "C" NOT NULL,
    attempts integer NOT NULL,
    next_attempt_time timestamptz NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (bucket, id),
    CONSTRAINT outbox_occasion CHECK (
        (occasion IN ('INVITATION', 'REMINDER', 'OWNER_ACTIVATION') AND invitation_id IS NOT NULL AND user_id IS NULL)
        OR (occasion = 'ADDED' AND invitation_id IS NULL AND user_id IS NOT NULL)),
    CONSTRAINT outbox_attempts CHECK (attempts >= 0),
    CONSTRAINT outbox_organization FOREIGN KEY (bucket, organization_id)
        REFERENCES organizations (bucket, id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX outbox_by_id ON outbox (id);
CREATE INDEX outbox_due ON outbox (next_attempt_time);
CREATE INDEX outbox_by_invitation ON outbox (bucket, organization_id, invitation_id);

-- What has been used of a limit that spans organizations: mails to one recipient, failed tokens of one caller. The
-- subject is a hash: the table tells no address.
CREATE TABLE quotas (
    subject bytea PRIMARY KEY,
    used integer NOT NULL,
    window_start timestamptz NOT NULL,
    CONSTRAINT quotas_subject CHECK (octet_length(subject) = 32),
    CONSTRAINT quotas_used CHECK (used >= 0)
);
CREATE INDEX quotas_by_time ON quotas (window_start);

-- What is asked for when old pending organizations are tidied away.
CREATE INDEX organizations_pending ON organizations (create_time) WHERE state = 'PENDING';
