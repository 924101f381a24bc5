//! The clock that `strftime_now` reads.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// A date and time of day, as a calendar and a clock on the wall show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// For example 2026.
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 60.
    pub second: u8,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl From<SystemTime> for Civil {
    /// The time in UTC (before 1970: 1970).
    fn from(time: SystemTime) -> Self {
        let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let (days, rest) = (seconds / 86_400, seconds % 86_400);
        // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms": years begin in March, eras have 400 years.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march = (5 * day_of_year + 2) / 153;
        let month = if march < 10 { march + 3 } else { march - 9 };
        Self {
            year: i32::try_from(year_of_era + era * 400 + u64::from(month <= 2)).unwrap_or(i32::MAX),
            month: month as u8,
            day: (day_of_year - (153 * march + 2) / 5 + 1) as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }
}

impl Civil {
    /// Days before this one in its year.
    fn day_of_year(&self) -> i32 {
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let month = usize::from(self.month.clamp(1, 12)) - 1;
        before[month] + i32::from(leap && month > 1) + i32::from(self.day) - 1
    }

    /// 0 for Sunday (Sakamoto's method).
    fn weekday(&self) -> i32 {
        let offsets = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
        let month = self.month.clamp(1, 12);
        let year = i64::from(self.year) - i64::from(month < 3);
        let sum = year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        (sum + offsets[usize::from(month) - 1] + i64::from(self.day)).rem_euclid(7) as i32
    }

    /// C's `strftime` in the C locale; a directive that it does not know stays as it is.
    pub fn format(&self, format: &str) -> String {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            let flag = directive.filter(|c| "-_0".contains(*c));
            if flag.is_some() {
                directive = chars.next();
            }
            self.directive(&mut out, flag, directive.unwrap_or('%'));
        }
        out
    }

    fn directive(&self, out: &mut String, flag: Option<char>, directive: char) {
        let name = |names: &'static [&'static str], i: i32| names.get(i as usize).copied().unwrap_or("?");
        let (weekday, yday) = (self.weekday(), self.day_of_year());
        let hour12 = match self.hour % 12 {
            0 => 12,
            hour => i32::from(hour),
        };
        let half = if self.hour < 12 { "AM" } else { "PM" };
        let month = i32::from(self.month) - 1;
        // A number: value, width, and what fills it.
        let (value, width, fill) = match directive {
            'Y' => (self.year, 1, '0'),
            'C' => (self.year.div_euclid(100), 2, '0'),
            'y' => (self.year.rem_euclid(100), 2, '0'),
            'm' => (i32::from(self.month), 2, '0'),
            'd' => (i32::from(self.day), 2, '0'),
            'e' => (i32::from(self.day), 2, ' '),
            'H' => (i32::from(self.hour), 2, '0'),
            'k' => (i32::from(self.hour), 2, ' '),
            'I' => (hour12, 2, '0'),
            'l' => (hour12, 2, ' '),
            'M' => (i32::from(self.minute), 2, '0'),
            'S' => (i32::from(self.second), 2, '0'),
            'f' => (0, 6, '0'),
            'j' => (yday + 1, 3, '0'),
            'u' => (if weekday == 0 { 7 } else { weekday }, 1, '0'),
            'w' => (weekday, 1, '0'),
            'U' => ((yday + 7 - weekday) / 7, 2, '0'),
            'W' => ((yday + 7 - (weekday + 6) % 7) / 7, 2, '0'),
            _ => {
                match directive {
                    'B' => out.push_str(name(&MONTHS, month)),
                    'b' | 'h' => out.push_str(name(&MONTHS, month).get(..3).unwrap_or("?")),
                    'A' => out.push_str(name(&DAYS, weekday)),
                    'a' => out.push_str(name(&DAYS, weekday).get(..3).unwrap_or("?")),
                    'p' => out.push_str(half),
                    'P' => out.push_str(&half.to_lowercase()),
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    '%' => out.push('%'),
                    // The clock has no zone, as Python's `datetime.now()` has none.
                    'z' | 'Z' => {}
                    'F' => out.push_str(&self.format("%Y-%m-%d")),
                    'D' | 'x' => out.push_str(&self.format("%m/%d/%y")),
                    'T' | 'X' => out.push_str(&self.format("%H:%M:%S")),
                    'R' => out.push_str(&self.format("%H:%M")),
                    'r' => out.push_str(&self.format("%I:%M:%S %p")),
                    'c' => out.push_str(&self.format("%a %b %e %H:%M:%S %Y")),
                    _ => out.extend(['%', directive]),
                }
                return;
            }
        };
        let _ = match (flag, fill) {
            (Some('-'), _) => write!(out, "{value}"),
            (Some('_'), _) | (None, ' ') => write!(out, "{value:width$}"),
            _ => write!(out, "{value:0width$}"),
        };
    }
}
