//! Asking before something is changed.

use super::Failure;
use std::io::{BufRead, IsTerminal, Write};

/// True if the person agrees. Without a terminal there is nobody to ask, and nothing is done.
pub async fn confirm(question: &str, yes: bool) -> Result<bool, Failure> {
    if yes {
        return Ok(true);
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::in_usage(
            "there is no terminal to ask for your consent, so nothing was done",
            "add --yes",
        ));
    }
    {
        let mut stderr = std::io::stderr().lock();
        write!(stderr, "{question} [y/N] ")?;
        stderr.flush()?;
    }
    // Sessions that have ended meanwhile should be able to say so.
    let read = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).map(|_| answer)
    });
    let answer = read.await.map_err(|error| Failure::at_run_time(error.to_string()))??;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}
