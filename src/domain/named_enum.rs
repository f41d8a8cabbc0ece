//! Enums whose values each have one fixed name: in Postgres, in JSON, in error metadata and on the wire.

/// Declares an enum from a table: one row for each variant, with its name.
///
/// The enum gets `ALL`, `as_str`, `parse`, `Display`, and serde implementations that write and read the name. The text
/// after `else` is the error of `parse` for an unknown name.
macro_rules! named_enum {
    (
        $(#[$attribute:meta])*
        $type:ident else $unknown:literal;
        $($(#[$doc:meta])* $variant:ident = $name:literal,)*
    ) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "&'static str")]
        pub enum $type { $($(#[$doc])* $variant,)* }

        impl $type {
            /// Every value, in the order of the table.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name of the value, as stored and as sent.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Finds a value by its name.
            ///
            /// # Errors
            /// If no value has this name.
            pub fn parse(name: &str) -> Result<Self, $crate::domain::Invalid> {
                match name {
                    $($name => Ok(Self::$variant),)*
                    _ => Err($crate::domain::Invalid::new($unknown)),
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl From<$type> for &'static str {
            fn from(value: $type) -> Self {
                value.as_str()
            }
        }

        impl TryFrom<String> for $type {
            type Error = $crate::domain::Invalid;
            fn try_from(name: String) -> Result<Self, Self::Error> {
                Self::parse(&name)
            }
        }
    };
}

pub(crate) use named_enum;
