/// Why the value of a key of a message, or of a row, cannot be used.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyProblem {
    /// The key is missing.
    #[error("`{key}` is missing")]
    Missing {
        /// The key.
        key: String,
    },
    /// The value has another type.
    #[error("`{key}` is {found}, not {expected}")]
    Type {
        /// The key.
        key: String,
        /// The type found.
        found: &'static str,
        /// The expected type.
        expected: &'static str,
    },
    /// A part of a content is not text.
    #[error("part {} of `{key}` has the type `{found}`, but only text is supported", part + 1)]
    PartType {
        /// The key.
        key: String,
        /// The part, from 0.
        part: usize,
        /// Its type.
        found: String,
    },
    /// The key marks parts of a message for training.
    #[error("`{key}` marks parts of a message for training, which is not supported")]
    MessageMask {
        /// The key.
        key: String,
    },
    /// The key marks parts of the conversation for training.
    #[error("`{key}` marks parts of the conversation for training, which is not supported")]
    ConversationMask {
        /// The key.
        key: String,
    },
    /// A weight is not a number of at least 0.
    #[error("`{key}` is {found}, expected a number of at least 0")]
    Weight {
        /// The key.
        key: String,
        /// The value, or its type.
        found: String,
    },
    /// A value is neither true nor false.
    #[error("`{key}` is {found}, expected true or false")]
    Flag {
        /// The key.
        key: String,
        /// The value, or its type.
        found: String,
    },
    /// The product of several weights is too large.
    #[error("the product of the weights is {product}")]
    WeightProduct {
        /// The product.
        product: f64,
    },
    /// A message that is not an assistant's is marked for training.
    #[error("`{key}` is true for the role {role:?}, but only an assistant's messages are trained")]
    TrainedRole {
        /// The key.
        key: String,
        /// The message's role.
        role: String,
    },
    /// A message that is not an assistant's has a weight.
    #[error("the weight is {weight}, but only an assistant's messages are trained")]
    WeightedRole {
        /// The weight.
        weight: f64,
    },
}

impl KeyProblem {
    /// A value of another type.
    pub(crate) fn wrong_type(key: &str, found: &'static str, expected: &'static str) -> Self {
        Self::Type { key: key.to_owned(), found, expected }
    }

    /// The problem with the key's name in the file.
    pub(crate) fn renamed(mut self, from: &str, to: &str) -> Self {
        let (Self::Missing { key } | Self::Type { key, .. } | Self::PartType { key, .. }) = &mut self else {
            return self;
        };
        if key == from {
            to.clone_into(key);
        }
        self
    }
}
