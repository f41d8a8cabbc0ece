//! The text of a plan, readable as a patch is: lines with `+` are added and lines with `-` removed; the others, with two
//! spaces, say where.

use super::plan::{ModelPlan, PermissionChange, RoleChange};
use super::{DeclaredPermission, DeclaredRole, WordSet};
use crate::domain::Kind;
use std::fmt;

/// Prints the changes of a plan, without its warnings. A plan without changes has an empty text.
impl fmt::Display for ModelPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut patch = Patch::default();
        if !(self.newly_delegable.is_empty() && self.no_longer_delegable.is_empty()) {
            patch.words(Mark::Context, "delegable", &self.newly_delegable, &self.no_longer_delegable);
        }
        for change in &self.permissions {
            patch.permission(change);
        }
        for change in &self.roles {
            patch.role(change);
        }
        f.write_str(&patch.text)
    }
}

/// What happens to a line.
#[derive(Debug, Clone, Copy)]
enum Mark {
    Context,
    Add,
    Remove,
}

impl Mark {
    /// The mark of an item that exists before, and after.
    fn of(before: bool, after: bool) -> Self {
        match (before, after) {
            (false, true) => Self::Add,
            (true, false) => Self::Remove,
            (true, true) | (false, false) => Self::Context,
        }
    }
}

/// The lines so far.
#[derive(Debug, Default)]
struct Patch {
    text: String,
}

impl Patch {
    fn line(&mut self, mark: Mark, line: &str) {
        let mark = match mark {
            Mark::Context => "  ",
            Mark::Add => "+ ",
            Mark::Remove => "- ",
        };
        for part in [mark, line, "\n"] {
            self.text.push_str(part);
        }
    }

    /// The beginning of an item, behind an empty line.
    fn item(&mut self, mark: Mark, list: &str, name: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.line(mark, &format!("[[{list}]]"));
        self.line(mark, &format!("name = {}", quoted(name)));
    }

    /// A text that an item has before and after. An empty one is absent.
    fn field(&mut self, key: &str, before: &str, after: &str) {
        let line = |value: &str| format!("{key} = {}", quoted(value));
        if before == after {
            if !before.is_empty() {
                self.line(Mark::Context, &line(before));
            }
            return;
        }
        for (mark, value) in [(Mark::Remove, before), (Mark::Add, after)] {
            if !value.is_empty() {
                self.line(mark, &line(value));
            }
        }
    }

    /// The words that a list gains and loses, sorted. `mark` is that of the list itself.
    fn words(&mut self, mark: Mark, key: &str, gained: &WordSet, lost: &WordSet) {
        self.line(mark, &format!("{key} = ["));
        for word in gained.union(lost) {
            let mark = if gained.contains(word) { Mark::Add } else { Mark::Remove };
            self.line(mark, &format!("    {},", quoted(word)));
        }
        self.line(mark, "]");
    }

    fn permission(&mut self, change: &PermissionChange) {
        let (before, after) = (change.before.as_ref(), change.after.as_ref());
        let Some(any) = after.or(before) else { return };
        self.item(Mark::of(before.is_some(), after.is_some()), "permissions", any.name.as_str());
        let both = |text: fn(&DeclaredPermission) -> &str| {
            (before.map(text).unwrap_or_default(), after.map(text).unwrap_or_default())
        };
        let (before, after) = both(|permission| permission.title.as_str());
        self.field("title", before, after);
        let (before, after) = both(|permission| permission.description.as_str());
        self.field("description", before, after);
    }

    fn role(&mut self, change: &RoleChange) {
        let (before, after) = (change.before.as_ref(), change.after.as_ref());
        let mark = Mark::of(before.is_some(), after.is_some());
        self.item(mark, "roles", change.name.as_str());
        let both = |text: fn(&DeclaredRole) -> &str| {
            (before.map(text).unwrap_or_default(), after.map(text).unwrap_or_default())
        };
        let (before, after) = both(|role| role.kind.as_ref().map(Kind::as_str).unwrap_or_default());
        self.field("kind", before, after);
        let (before, after) = both(|role| role.title.as_str());
        self.field("title", before, after);
        let (before, after) = both(|role| role.description.as_str());
        self.field("description", before, after);
        if !(change.gained.is_empty() && change.lost.is_empty()) {
            self.words(mark, "permissions", &change.gained, &change.lost);
        }
    }
}

/// A text in quotation marks, in one line. JSON's form is TOML's too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::{AccessModel, ModelParts};
    use super::*;
    use serde_json::{Value, json};

    fn model(parts: &Value) -> AccessModel {
        AccessModel::parse(&serde_json::from_value::<ModelParts>(parts.clone()).unwrap(), "").unwrap()
    }

    const PATCH: &str = r#"  delegable = [
+     "events.read",
-     "members.add",
  ]

  [[permissions]]
  name = "billing.read"
- title = "Read bills"
+ title = "Read"
+ description = "One.\nTwo."

+ [[permissions]]
+ name = "billing.refund"

- [[permissions]]
- name = "reports.read"
- title = "Reports"

  [[roles]]
  name = "accountant"
- kind = "vendor"
  title = "Accountant"
  permissions = [
+     "billing.refund",
-     "reports.read",
  ]

+ [[roles]]
+ name = "admin"
+ permissions = [
+     "billing.read",
-     "members.remove",
+ ]

- [[roles]]
- name = "auditor"
- permissions = [
-     "reports.read",
- ]

+ [[roles]]
+ name = "guest"
+ kind = "customer"
"#;

    #[test]
    fn a_plan_reads_like_a_patch() {
        let before = model(&json!({
            "delegable": ["members.add"],
            "permissions": [
                { "name": "billing.read", "title": "Read bills" },
                { "name": "billing.write", "title": "Write bills" },
                { "name": "reports.read", "title": "Reports" },
            ],
            "roles": [
                { "name": "auditor", "permissions": ["reports.read"] },
                {
                    "name": "accountant", "kind": "vendor", "title": "Accountant",
                    "permissions": ["billing.read", "reports.read"],
                },
            ],
        }));
        let built_in = AccessModel::default().words_of("admin").unwrap().into_owned();
        let admin = built_in.iter().map(|word| &**word).filter(|word| *word != "members.remove");
        let admin: Vec<&str> = admin.chain(["billing.read"]).collect();
        let after = model(&json!({
            "delegable": ["events.read"],
            "permissions": [
                { "name": "billing.refund" },
                { "name": "billing.read", "title": "Read", "description": "One.\nTwo." },
                { "name": "billing.write", "title": "Write bills" },
            ],
            "roles": [
                { "name": "guest", "kind": "customer" },
                { "name": "admin", "permissions": admin },
                { "name": "accountant", "title": "Accountant", "permissions": ["billing.refund", "billing.read"] },
            ],
        }));
        let plan = ModelPlan::between(&before, &after);
        assert_eq!(plan.to_string(), PATCH);
        let warnings: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            warnings,
            [
                "admins cannot add, change or remove members with the role accountant: admin lacks billing.refund",
                "the change of admin gives wrong answers in clients of older releases, which assume its built-in \
                 permissions: update every client first, then confirm that older clients are gone",
            ]
        );
    }
}
