//! `${NAME}` in values.

use crate::connect::Environment;

/// Message and remedy.
pub(super) type InterpolationFault = (String, String);

/// Puts variables in; `$${` stands for a literal `${`. All faults of the text are collected.
pub(super) fn interpolate(
    text: &str,
    environment: &Environment,
) -> Result<String, Vec<InterpolationFault>> {
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
            faults.push((
                "a `${` has no closing `}`".to_owned(),
                "write ${NAME}; for a literal `${` write $${".to_owned(),
            ));
            break;
        };
        let name = &rest[at + 2..at + 2 + length];
        match environment.get(name) {
            _ if !is_variable_name(name) => faults.push((
                "what stands between `${` and `}` is not the name of a variable".to_owned(),
                "write ${NAME}; for a literal `${` write $${".to_owned(),
            )),
            Some(value) => result.push_str(value),
            None => faults.push((
                format!("the environment variable {name} is not set"),
                format!("set it for the process that runs pgtandem: export {name}=…"),
            )),
        }
        rest = &rest[at + 2 + length + 1..];
    }
    result.push_str(rest);
    if faults.is_empty() {
        Ok(result)
    } else {
        Err(faults)
    }
}

fn is_variable_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}
