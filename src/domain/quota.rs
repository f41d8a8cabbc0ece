//! Quotas: the limits on invitations and on invitation tokens that a deployment sets, and that on roles.

use super::named_enum::named_enum;

named_enum! {
    /// A quota. Its name is the name of its setting, if it has one, and the `limit` in the metadata of `QUOTA_EXCEEDED`.
    Quota else "unknown quota";
    /// Pending invitations of one organization.
    PendingPerOrganization = "pending_per_organization",
    /// Invitations that one organization makes in 24 hours.
    PerOrganizationAndDay = "per_organization_and_day",
    /// Deliveries of one invitation: mails sent and invitation tokens returned.
    SendsPerInvitation = "sends_per_invitation",
    /// Time between two deliveries of one invitation.
    Cooldown = "cooldown",
    /// Mails of all senders to one recipient in 24 hours, over all organizations.
    MailsPerRecipientAndDay = "mails_per_recipient_and_day",
    /// Mails of one user to one recipient in 24 hours, over all organizations.
    MailsPerSenderToRecipientAndDay = "mails_per_sender_to_recipient_and_day",
    /// Invalid invitation tokens from one caller in one minute.
    FailedTokensPerMinute = "failed_tokens_per_minute",
    /// Roles that one organization defines for itself.
    RolesPerOrganization = "roles_per_organization",
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Refusal;

    /// Answers are stored for 24 hours, so a new version reads refusals that the previous version wrote.
    #[test]
    fn a_stored_refusal_keeps_its_json_form() {
        let json = r#"{"QuotaExceeded":{"limit":"cooldown","most":1,"retry_seconds":60}}"#;
        let refusal = Refusal::QuotaExceeded { limit: Quota::Cooldown, most: 1, retry_seconds: 60 };
        assert_eq!(serde_json::to_string(&refusal).ok().as_deref(), Some(json));
        assert_eq!(serde_json::from_str(json).ok(), Some(refusal));
        for quota in Quota::ALL {
            assert_eq!(Quota::parse(quota.as_str()), Ok(*quota));
        }
    }
}
