//! What is wrong with a model, in one sentence.

use alula_graph::GraphError;

/// A model that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file that cannot be read.
    #[error(transparent)]
    Format(#[from] alula_format::Error),
    /// The path is not a model.
    #[error("{path}: {why}")]
    Path {
        /// What was asked for.
        path: String,
        /// What is wrong with it and what to do.
        why: String,
    },
    /// An architecture that is not in the zoo.
    #[error("{file}: the architecture `{arch}` is not supported; supported are {known}")]
    Architecture {
        /// File.
        file: String,
        /// Its name in the file.
        arch: String,
        /// What works.
        known: String,
    },
    /// A configuration value that is missing or cannot be used.
    #[error("{file}: `{field}` {why}")]
    Config {
        /// File.
        file: String,
        /// Key in the file.
        field: String,
        /// What is wrong.
        why: String,
    },
    /// A tensor that is missing or of the wrong shape.
    #[error("{file}: tensor `{tensor}` {why}")]
    Tensor {
        /// File.
        file: String,
        /// Name in the file.
        tensor: String,
        /// What is wrong.
        why: String,
    },
    /// The pieces do not fit together.
    #[error("{file}: {source}")]
    Graph {
        /// File.
        file: String,
        /// Which value.
        source: GraphError,
    },
}
