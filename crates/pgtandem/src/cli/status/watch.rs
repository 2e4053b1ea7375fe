//! `pgtandem status --watch`

use std::io::{IsTerminal, Write};
use std::time::Duration;

use jiff::{Timestamp, Zoned};
use tokio::signal::unix::{SignalKind, signal};

use super::text;
use crate::cli::{Failure, Outcome, Style};
use crate::config::Config;
use crate::observe::{Observer, Status};

const EVERY: Duration = Duration::from_secs(1);

pub async fn watch(config: &Config, observer: &mut Observer<'_>, json: bool) -> Result<Outcome, Failure> {
    if !json && !std::io::stdout().is_terminal() {
        return Err(Failure::in_usage(
            "--watch draws on a terminal, and there is none",
            "add --json, or leave --watch",
        ));
    }
    let mut terminate = signal(SignalKind::terminate())?;
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let screen = if json { None } else { Some(Screen::open()?) };
    loop {
        let look = async {
            tick.tick().await;
            observer.look().await
        };
        let observed = tokio::select! {
            observed = look => observed,
            _ = tokio::signal::ctrl_c() => return Ok(Outcome::Fine),
            _ = terminate.recv() => return Ok(Outcome::Fine),
        };
        let status = Status::new(config, &observed, Timestamp::now());
        match &screen {
            Some(screen) => screen.draw(&text::render(&status, &Zoned::now(), Style::of_stdout()))?,
            None => {
                let mut stdout = std::io::stdout().lock();
                let line = serde_json::to_string(&status).map_err(std::io::Error::from)?;
                match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
                    // Whoever read us has seen enough.
                    Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(Outcome::Fine),
                    written => written?,
                }
            }
        }
    }
}

/// The terminal's other screen, given back when dropped.
struct Screen;

impl Screen {
    fn open() -> Result<Self, Failure> {
        // Other screen, no cursor, no line breaks: what is too wide is cut off.
        Self::write("\x1b[?1049h\x1b[?25l\x1b[?7l")?;
        Ok(Self)
    }

    /// Overwrites line by line, so that nothing flickers.
    fn draw(&self, text: &str) -> Result<(), Failure> {
        let rows = terminal_size::terminal_size().map_or(24, |(_, height)| usize::from(height.0));
        let lines: Vec<&str> = text.lines().take(rows.saturating_sub(1)).collect();
        Self::write(&format!("\x1b[H{}\x1b[K\r\n\x1b[J", lines.join("\x1b[K\r\n")))
    }

    fn write(text: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        Ok(stdout.flush()?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        drop(Self::write("\x1b[?7h\x1b[?25h\x1b[?1049l"));
    }
}
