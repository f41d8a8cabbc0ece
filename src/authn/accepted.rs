//! The credentials that are accepted now. A reload of the settings replaces them while the server runs.

use super::api_keys::{AcceptedApiKey, ApiKeys};
use super::client_certificates::ClientCertificates;
use super::jwt::Issuer;
use super::retirement::Retirement;
use super::settings::IssuerSettings;
use std::ops::Deref;
use std::sync::Arc;

/// The issuers, API keys and client certificates of one state of the settings.
pub(super) struct AcceptedCredentials {
    pub(super) issuers: Vec<Arc<AcceptedIssuer>>,
    pub(super) api_keys: ApiKeys,
    pub(super) client_certificates: Arc<ClientCertificates>,
}

/// An issuer, for as long as the settings name it.
pub(super) struct AcceptedIssuer {
    issuer: Issuer,
    settings: IssuerSettings,
    retired: Retirement,
}

/// What a reload changed: issuers, and the names of services with API keys or client certificates. An entry that changed is
/// in both lists of its kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CredentialChanges {
    /// Issuers that are new, or have other settings or keys than before.
    pub added_issuers: Vec<String>,
    /// Issuers that are no longer accepted, or not with their former settings or keys.
    pub removed_issuers: Vec<String>,
    /// Issuers whose key files have other keys than before.
    pub rekeyed_issuers: Vec<String>,
    /// The names of new API keys.
    pub added_api_keys: Vec<String>,
    /// The names of API keys that are no longer accepted.
    pub removed_api_keys: Vec<String>,
    /// The names of new client certificates.
    pub added_client_certificates: Vec<String>,
    /// The names of client certificates that are no longer accepted.
    pub removed_client_certificates: Vec<String>,
}

impl CredentialChanges {
    /// Whether nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Deref for AcceptedIssuer {
    type Target = Issuer;
    fn deref(&self) -> &Issuer {
        &self.issuer
    }
}

impl AcceptedIssuer {
    pub(super) fn new(issuer: Issuer, settings: IssuerSettings) -> Self {
        Self { issuer, settings, retired: Retirement::default() }
    }

    pub(super) fn settings(&self) -> &IssuerSettings {
        &self.settings
    }

    /// Whether its tokens are no longer accepted.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.is_set()
    }

    /// Whether `other` accepts the same tokens.
    fn equals(&self, other: &Self) -> bool {
        self.settings == other.settings && self.has_same_users(other) && self.keys.can_replace(&other.keys)
    }
}

impl AcceptedCredentials {
    /// Returns these credentials without what `next` lacks and with what it adds. What did not change stays the same
    /// object, so that its cached credentials stay valid, and its fetched keys in use. What is dropped is retired.
    pub(super) fn replaced_by(&self, next: &Self) -> (Self, CredentialChanges) {
        let mut changes = CredentialChanges::default();
        let issuers = self.issuers_replaced_by(&next.issuers, &mut changes);
        let name = |key: &AcceptedApiKey| key.settings.name.clone();
        let (api_keys, added, removed) = self.api_keys.replaced_by(&next.api_keys);
        for key in &removed {
            key.retired.set();
        }
        changes.added_api_keys = added.iter().map(|key| name(key)).collect();
        changes.removed_api_keys = removed.iter().map(|key| name(key)).collect();
        let (before, after) = (&self.client_certificates, &next.client_certificates);
        changes.added_client_certificates = after.names_without(before);
        changes.removed_client_certificates = before.names_without(after);
        let client_certificates = if before.is_same(after) { before.clone() } else { after.clone() };
        (Self { issuers, api_keys, client_certificates }, changes)
    }

    fn issuers_replaced_by(
        &self,
        next: &[Arc<AcceptedIssuer>],
        changes: &mut CredentialChanges,
    ) -> Vec<Arc<AcceptedIssuer>> {
        let mut issuers = Vec::with_capacity(next.len());
        for issuer in next {
            if let Some(old) = self.issuers.iter().find(|old| old.equals(issuer)) {
                issuers.push(old.clone());
                continue;
            }
            // The provider may be away: keys that came by the same settings stay in use.
            for old in &self.issuers {
                issuer.keys.take_over(&old.keys);
            }
            let name = issuer.settings.issuer.clone();
            match self.issuers.iter().find(|old| old.settings == issuer.settings) {
                // The prefixes of other issuers changed, which are in the list.
                Some(old) if old.keys.can_replace(&issuer.keys) => {}
                Some(_) => changes.rekeyed_issuers.push(name),
                None => changes.added_issuers.push(name),
            }
            issuers.push(issuer.clone());
        }
        for old in &self.issuers {
            if !issuers.iter().any(|issuer| Arc::ptr_eq(issuer, old)) {
                old.retired.set();
                if !issuers.iter().any(|issuer| issuer.settings == old.settings) {
                    changes.removed_issuers.push(old.settings.issuer.clone());
                }
            }
        }
        issuers
    }
}
