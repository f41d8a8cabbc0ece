//! The summary of a plan, for a line of the log.

use super::WordSet;
use super::plan::{Difference, ModelPlan};
use super::validate::enumeration;

impl ModelPlan {
    /// What the change does, in one line: `adds the permissions billing.read, billing.pay; changes the roles admin`. It names
    /// five items of each list and counts the others. Empty if the models are equal.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut parts = Vec::new();
        for (verb, difference) in
            [("adds", Difference::Added), ("changes", Difference::Changed), ("removes", Difference::Removed)]
        {
            let permissions = self.permissions.iter().filter(|change| change.difference() == difference);
            let permissions: Vec<&str> = permissions.map(|change| change.name()).collect();
            let roles = self.roles.iter().filter(|change| change.difference() == difference);
            let roles: Vec<&str> = roles.map(|change| change.name.as_str()).collect();
            for (noun, names) in [("permissions", permissions), ("roles", roles)] {
                if !names.is_empty() {
                    parts.push(format!("{verb} the {noun} {}", enumeration(&names)));
                }
            }
        }
        for (adverb, words) in [("", &self.newly_delegable), ("no longer ", &self.no_longer_delegable)] {
            if !words.is_empty() {
                parts.push(format!("makes {adverb}delegable {}", names_of(words)));
            }
        }
        parts.join("; ")
    }
}

fn names_of(words: &WordSet) -> String {
    enumeration(&words.iter().map(|word| &**word).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::super::{AccessModel, ModelParts};
    use super::*;
    use serde_json::{Value, json};

    fn summary(before: Value, after: Value) -> String {
        let [before, after] = [before, after].map(|parts| {
            let parts: ModelParts = serde_json::from_value(parts).unwrap();
            AccessModel::parse(&parts, "").unwrap()
        });
        ModelPlan::between(&before, &after).summary()
    }

    #[test]
    fn a_summary_names_the_first_items_of_each_difference() {
        let words: Vec<_> = (0..7).map(|number| json!({ "name": format!("a.p{number}") })).collect();
        let before = json!({
            "permissions": [{ "name": "b.old" }],
            "roles": [{ "name": "x" }, { "name": "y", "title": "Y" }],
            "delegable": ["members.add"],
        });
        let after = json!({
            "permissions": words,
            "roles": [{ "name": "y" }, { "name": "z" }],
            "delegable": ["events.read"],
        });
        assert_eq!(
            summary(before.clone(), after),
            "adds the permissions a.p0, a.p1, a.p2, a.p3, a.p4 and 2 more; adds the roles z; changes the roles y; \
             removes the permissions b.old; removes the roles x; makes delegable events.read; makes no longer delegable \
             members.add"
        );
        assert_eq!(summary(before.clone(), before), "");
    }
}
