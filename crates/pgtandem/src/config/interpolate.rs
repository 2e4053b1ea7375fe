//! `${NAME}` in values.

use crate::connect::Environment;

pub(super) struct InterpolationFault {
    /// `${NAME}` as it stands in the text.
    pub variable: Option<String>,
    pub message: String,
    pub remedy: String,
}

/// Puts variables in; `$${` stands for a literal `${`. All faults of the text are collected.
pub(super) fn interpolate(text: &str, environment: &Environment) -> Result<String, Vec<InterpolationFault>> {
    let mut result = String::with_capacity(text.len());
    let mut faults = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if let Some(before) = rest[..at].strip_suffix('$') {
            result.push_str(before);
            result.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        result.push_str(&rest[..at]);
        let Some(length) = rest[at + 2..].find('}') else {
            faults.push(malformed("a `${` has no closing `}`"));
            break;
        };
        let name = &rest[at + 2..at + 2 + length];
        match environment.get(name) {
            _ if !is_variable_name(name) => {
                faults.push(malformed("what stands between `${` and `}` is not the name of a variable"))
            }
            Some(value) => result.push_str(value),
            None => faults.push(InterpolationFault {
                variable: Some(format!("${{{name}}}")),
                message: format!("the environment variable {name} is not set"),
                remedy: format!("set it for the process that runs pgtandem: export {name}=…"),
            }),
        }
        rest = &rest[at + 2 + length + 1..];
    }
    result.push_str(rest);
    if faults.is_empty() { Ok(result) } else { Err(faults) }
}

fn malformed(message: &str) -> InterpolationFault {
    InterpolationFault {
        variable: None,
        message: message.to_owned(),
        remedy: "write ${NAME}; for a literal `${` write $${".to_owned(),
    }
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
