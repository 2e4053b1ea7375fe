//! Repeated measurements of one quantity, and how two systems compare.

use crate::system::System;

/// One value per repeat.
#[derive(Default, Clone, Debug)]
pub struct Series(Vec<f64>);

impl Series {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn quantile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let at = (part * last as f64).round() as usize;
        sorted[at]
    }

    pub fn median(&self) -> f64 {
        let (low, high) = (self.quantile(0.499), self.quantile(0.501));
        f64::midpoint(low, high)
    }

    pub fn show(&self, digits: usize) -> String {
        let [least, most] = [0.0, 1.0].map(|part| self.quantile(part));
        format!("{:.digits$} ({least:.digits$} to {most:.digits$})", self.median())
    }
}

/// A quantity measured with both systems in turn.
#[derive(Default, Clone, Debug)]
pub struct Compared {
    pub native: Series,
    pub tandem: Series,
}

impl Compared {
    pub fn of(&mut self, system: System) -> &mut Series {
        match system {
            System::Native => &mut self.native,
            System::Tandem => &mut self.tandem,
        }
    }

    /// pgtandem's median over native's; not a number if one of them was not measured.
    pub fn ratio(&self) -> f64 {
        self.tandem.median() / self.native.median()
    }
}

/// What a quantity must reach.
#[derive(Clone, Copy)]
pub enum Bound {
    AtLeast { must: f64, aim: f64 },
    AtMost { must: f64, aim: f64 },
}

/// A figure that may miss its bound by this part: the machine is never quiet.
const TOLERANCE: f64 = 0.05;

impl Bound {
    pub const fn at_least(must: f64, aim: f64) -> Bound {
        Bound::AtLeast { must, aim }
    }

    pub const fn at_most(must: f64, aim: f64) -> Bound {
        Bound::AtMost { must, aim }
    }

    pub fn verdict(self, value: f64) -> &'static str {
        let (must, aim) = match self {
            Bound::AtLeast { must, aim } => (value >= must * (1.0 - TOLERANCE), value >= aim * (1.0 - TOLERANCE)),
            Bound::AtMost { must, aim } => (value <= must * (1.0 + TOLERANCE), value <= aim * (1.0 + TOLERANCE)),
        };
        match (must, aim) {
            (_, true) => "reaches the aim",
            (true, false) => "reaches what it must",
            (false, false) => "MISSED",
        }
    }

    pub fn show(self) -> String {
        match self {
            #[expect(clippy::float_cmp)] // both are written down in this program
            Bound::AtMost { must, aim } if must == aim => format!("at most {must}"),
            Bound::AtLeast { must, aim } => format!("at least {must}, aim {aim}"),
            Bound::AtMost { must, aim } => format!("at most {must}, aim {aim}"),
        }
    }
}
