//! The meaning of an error of Postgres, by its SQLSTATE (Postgres manual, appendix A).
//!
//! Never by constraint name, which not every Postgres-compatible engine sends.

/// What an error of Postgres means for the statement that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ErrorClass {
    /// The datastore refuses service. Nothing was changed.
    Unavailable,
    /// The schema of the database is missing or outdated.
    Unmigrated,
    /// A statement or a lock took too long.
    Timeout,
    /// The transaction lost against another one and can be run again.
    Contention,
    /// A fault in roster.
    Unexpected,
}

/// Classifies a SQLSTATE. Each class has one meaning, except for the codes that are named before it.
pub(super) fn error_class(code: &str) -> ErrorClass {
    match code {
        // query_canceled (statement_timeout), lock_not_available (lock_timeout), transaction_timeout
        "57014" | "55P03" | "25P04" => return ErrorClass::Timeout,
        // serialization_failure, deadlock_detected
        "40001" | "40P01" => return ErrorClass::Contention,
        // invalid_catalog_name, undefined_table, undefined_column, undefined_function, invalid_schema_name: every
        // statement was checked against the schema at build time, so the schema of this database is missing or
        // outdated.
        "3D000" | "42P01" | "42703" | "42883" | "3F000" => return ErrorClass::Unmigrated,
        // read_only_sql_transaction (a standby), idle_in_transaction_session_timeout, insufficient_privilege (an
        // operator has revoked a right that roster needs)
        "25006" | "25P03" | "42501" => return ErrorClass::Unavailable,
        _ => {}
    }
    match code.get(..2) {
        // 08 connection exception, 26 invalid statement name (the session was exchanged or reset under roster), 28
        // invalid authorization, 53 insufficient resources (connections, memory, disk), 57 operator intervention
        // (shutdown, crash, not ready yet), 58 system error (input and output), F0 configuration file error
        Some("08" | "26" | "28" | "53" | "57" | "58" | "F0") => ErrorClass::Unavailable,
        // Everything else: SQL that Postgres rejects, a violated constraint, a damaged table.
        _ => ErrorClass::Unexpected,
    }
}

/// Whether a COMMIT that failed with this code has certainly not happened: the transaction lost against another one, or
/// a deferred constraint was violated (class 23).
pub(super) fn is_rolled_back(code: &str) -> bool {
    matches!(code, "40001" | "40P01") || code.starts_with("23")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_has_one_meaning() {
        // The classes of the manual, with the exceptions in them.
        let unavailable = ["08", "26", "28", "53", "57", "58", "F0"];
        let classes = [
            "00", "01", "02", "03", "08", "09", "0A", "0B", "0F", "0L", "0P", "0Z", "20", "21", "22", "23", "24", "25",
            "26", "27", "28", "2B", "2D", "2F", "34", "38", "39", "3B", "3D", "3F", "40", "42", "44", "53", "54", "55",
            "57", "58", "72", "F0", "HV", "P0", "XX",
        ];
        for class in classes {
            // No class has a code that ends so.
            let expected = if unavailable.contains(&class) { ErrorClass::Unavailable } else { ErrorClass::Unexpected };
            assert_eq!(error_class(&format!("{class}ZZZ")), expected, "{class}");
        }
        for (code, expected) in [
            ("25006", ErrorClass::Unavailable),
            ("25P02", ErrorClass::Unexpected),
            ("25P03", ErrorClass::Unavailable),
            ("25P04", ErrorClass::Timeout),
            ("28000", ErrorClass::Unavailable),
            ("28P01", ErrorClass::Unavailable),
            ("3D000", ErrorClass::Unmigrated),
            ("3F000", ErrorClass::Unmigrated),
            ("40001", ErrorClass::Contention),
            ("40P01", ErrorClass::Contention),
            ("42501", ErrorClass::Unavailable),
            ("42601", ErrorClass::Unexpected),
            ("42P01", ErrorClass::Unmigrated),
            ("53300", ErrorClass::Unavailable),
            ("55P03", ErrorClass::Timeout),
            ("57014", ErrorClass::Timeout),
            ("57P01", ErrorClass::Unavailable),
            ("XX000", ErrorClass::Unexpected),
            ("", ErrorClass::Unexpected),
            ("8", ErrorClass::Unexpected),
        ] {
            assert_eq!(error_class(code), expected, "{code}");
        }
    }

    #[test]
    fn only_lost_and_refused_commits_are_known_to_be_rolled_back() {
        for code in ["40001", "40P01", "23503", "23505", "23ZZZ"] {
            assert!(is_rolled_back(code), "{code}");
        }
        for code in ["40003", "57014", "57P01", "25006", "XX000", "58030", "08006", "53100", ""] {
            assert!(!is_rolled_back(code), "{code}");
        }
    }
}
