//! Why a statement that calls `caption_image` does not look ahead. Reported at the level DEBUG1.

/// Why rows are not read ahead for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AloneReason {
    /// It is switched off.
    Off,
    /// FETCH BACKWARD must keep working.
    Cursor,
    /// Rows that are read ahead could cause conflicts.
    Serializable,
    /// Subtransactions are not possible there, and each process has its own rows.
    Parallel,
    /// MERGE rechecks its source rows.
    Merge,
    /// The call is in a place whose rows the node cannot read.
    Elsewhere,
    /// The statement returns one row.
    OneRow,
    /// Reading ahead would do it earlier, or too often.
    Source,
    /// Reading ahead would change what it returns.
    SourceFunction,
    /// The error would be raised before the rows that precede it are returned.
    SourceError,
    /// The argument would be evaluated twice.
    VolatileArgument,
    /// It may have effects, or last long.
    UserArgument,
    /// An expression that is not known to be free of effects.
    Argument,
    /// The call is part of an expression that may skip it for unknown reasons.
    Expression,
    /// The limit is known only when the statement runs.
    Limit,
}

impl AloneReason {
    /// As the message shows it.
    pub fn text(self) -> &'static str {
        match self {
            AloneReason::Off => "\"pg_caption.lookahead\" is 0",
            AloneReason::Cursor => "the query is a declared cursor, or can be read backwards",
            AloneReason::Serializable => "the transaction is serializable",
            AloneReason::Parallel => "the plan is parallel",
            AloneReason::Merge => "the statement is a MERGE",
            AloneReason::Elsewhere => {
                "the call is in a condition, a subquery, VALUES, RETURNING, ON CONFLICT, or next \
                 to a set-returning function"
            }
            AloneReason::OneRow => "the call is not made for the rows of a table or subquery",
            AloneReason::Source => "the rows come from a plan node that is not read ahead",
            AloneReason::SourceFunction => {
                "reading the rows involves a volatile function or a function of a user"
            }
            AloneReason::SourceError => {
                "reading the rows evaluates an expression that may raise an error"
            }
            AloneReason::VolatileArgument => {
                "an argument, or a condition of the call, involves a volatile function"
            }
            AloneReason::UserArgument => {
                "an argument, or a condition of the call, involves a function or domain of a user"
            }
            AloneReason::Argument => {
                "an argument, or a condition of the call, is not a simple expression"
            }
            AloneReason::Expression => "the call is part of an expression that is not known",
            AloneReason::Limit => "the limit is not a simple expression",
        }
    }
}
