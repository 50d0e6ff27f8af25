//! What a register holds, and what the operations of clients do to it.

/// What the register holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// Nothing: it was never written, or it was deleted. An increment counts it as 0.
    #[default]
    Absent,
    /// A text that one write alone has, by its number.
    Text(u32),
    /// A number, to which increments add.
    Number(i64),
}

/// What must hold of the register when an operation takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guard {
    /// Nothing.
    Always,
    /// It holds something.
    Present,
    /// It holds this.
    Is(Value),
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A read, which showed this.
    Read(Guard),
    /// A write, or a deletion.
    Write {
        /// What it depends on, or showed of the register before it.
        guard: Guard,
        /// What it writes.
        value: Value,
    },
    /// An increment.
    Add {
        /// What it adds.
        by: i64,
        /// The sum, where an answer showed it.
        sum: Option<i64>,
    },
}

impl Value {
    /// The number to which an increment adds.
    pub(super) fn number(self) -> Option<i64> {
        match self {
            Self::Absent => Some(0),
            Self::Number(number) => Some(number),
            Self::Text(_) => None,
        }
    }
}

impl Guard {
    pub(super) fn holds(self, register: Value) -> bool {
        match self {
            Self::Always => true,
            Self::Present => register != Value::Absent,
            Self::Is(value) => value == register,
        }
    }
}

impl Effect {
    /// What the register holds afterwards; nothing where the operation cannot take effect.
    pub(super) fn apply(self, register: Value) -> Option<Value> {
        match self {
            Self::Read(guard) => guard.holds(register).then_some(register),
            Self::Write { guard, value } => guard.holds(register).then_some(value),
            Self::Add { by, sum } => {
                let result = register.number()?.checked_add(by)?;
                sum.is_none_or(|sum| sum == result).then_some(Value::Number(result))
            }
        }
    }

    /// Whether it changes nothing.
    pub(super) fn is_read(self) -> bool {
        matches!(self, Self::Read(_))
    }

    /// The value that it shows of the register before it.
    pub(super) fn shows(self) -> Option<Value> {
        match self {
            Self::Read(Guard::Is(value)) | Self::Write { guard: Guard::Is(value), .. } => Some(value),
            _ => None,
        }
    }
}
