//! `strftime_now`: Python's `datetime.now().strftime(format)` in UTC and the C locale.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::{Error, ErrorKind};

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
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

/// A moment in the Gregorian calendar.
struct Moment {
    year: i64,
    /// From 0.
    month: usize,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    microsecond: u32,
    /// From 0, Sunday.
    weekday: usize,
    /// From 1.
    day_of_year: i64,
}

/// The time as text. A directive that is not known is an error, so that no prompt carries a wrong date unseen.
pub(super) fn format(time: SystemTime, format: &str) -> Result<String, Error> {
    let moment = Moment::new(time);
    let mut text = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let mut directive = chars.next();
        let unpadded = directive == Some('-');
        if unpadded {
            directive = chars.next();
        }
        let part = directive.and_then(|directive| moment.part(directive)).ok_or_else(|| {
            let what = directive.map_or_else(String::new, String::from);
            Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know the directive `%{what}`"))
        })?;
        let shown = if unpadded { part.trim_start_matches(['0', ' ']) } else { &part };
        text.push_str(if unpadded && shown.is_empty() { "0" } else { shown });
    }
    Ok(text)
}

impl Moment {
    fn new(time: SystemTime) -> Self {
        // A clock before 1970 reads as 1970.
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs() as i64;
        let (days, second_of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil_date(days);
        Self {
            year,
            month: (month - 1) as usize,
            day,
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
            microsecond: since.subsec_micros(),
            weekday: (days + 4).rem_euclid(7) as usize,
            day_of_year: days - days_before_year(year) + 1,
        }
    }

    fn part(&self, directive: char) -> Option<String> {
        let (day_name, month_name) = (DAYS[self.weekday], MONTHS[self.month]);
        let hour12 = (self.hour + 11) % 12 + 1;
        Some(match directive {
            'a' => day_name[..3].to_owned(),
            'A' => day_name.to_owned(),
            'b' | 'h' => month_name[..3].to_owned(),
            'B' => month_name.to_owned(),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'f' => format!("{:06}", self.microsecond),
            'H' => format!("{:02}", self.hour),
            'I' => format!("{hour12:02}"),
            'j' => format!("{:03}", self.day_of_year),
            'm' => format!("{:02}", self.month + 1),
            'M' => format!("{:02}", self.minute),
            'p' => if self.hour < 12 { "AM" } else { "PM" }.to_owned(),
            'S' => format!("{:02}", self.second),
            'u' => format!("{}", (self.weekday + 6) % 7 + 1),
            'w' => format!("{}", self.weekday),
            'y' => format!("{:02}", self.year.rem_euclid(100)),
            'Y' => format!("{:04}", self.year),
            // Python prints nothing for a time without a zone.
            'z' | 'Z' => String::new(),
            'F' => self.joined(&["Y", "m", "d"], "-")?,
            'T' | 'X' => self.joined(&["H", "M", "S"], ":")?,
            'R' => self.joined(&["H", "M"], ":")?,
            'D' | 'x' => self.joined(&["m", "d", "y"], "/")?,
            'c' => {
                format!("{} {} {} {} {}", &day_name[..3], &month_name[..3], self.part('e')?, self.part('T')?, self.year)
            }
            '%' => "%".to_owned(),
            'n' => "\n".to_owned(),
            't' => "\t".to_owned(),
            _ => return None,
        })
    }

    fn joined(&self, directives: &[&str], separator: &str) -> Option<String> {
        let parts: Option<Vec<String>> =
            directives.iter().flat_map(|part| part.chars()).map(|c| self.part(c)).collect();
        Some(parts?.join(separator))
    }
}

/// Year, month (from 1) and day of a count of days since 1970-01-01, for years from 1970 on.
fn civil_date(mut days: i64) -> (i64, i64, i64) {
    let mut year = 1970 + days / 366;
    while days_before_year(year + 1) <= days {
        year += 1;
    }
    days -= days_before_year(year);
    let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

fn days_before_year(year: i64) -> i64 {
    let leap_days = |year: i64| year / 4 - year / 100 + year / 400;
    (year - 1970) * 365 + leap_days(year - 1) - leap_days(1969)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64, pattern: &str) -> String {
        format(UNIX_EPOCH + Duration::from_secs(seconds), pattern).unwrap()
    }

    #[test]
    fn dates_are_the_calendars() {
        assert_eq!(at(0, "%Y-%m-%d %H:%M:%S %A %j"), "1970-01-01 00:00:00 Thursday 001");
        assert_eq!(at(951_782_400, "%d %b %Y"), "29 Feb 2000");
        assert_eq!(at(1_735_689_599, "%c|%I:%M %p|%j|%u%w"), "Tue Dec 31 23:59:59 2024|11:59 PM|366|22");
        assert_eq!(at(4_102_444_800, "%F %T %D %R"), "2100-01-01 00:00:00 01/01/00 00:00");
    }

    #[test]
    fn padding_is_dropped_on_wish() {
        assert_eq!(at(1_709_251_200, "%-d %B, %-m/%-H|%e|%%|%Z"), "1 March, 3/0| 1|%|");
    }

    #[test]
    fn an_unknown_directive_is_an_error() {
        let error = format(UNIX_EPOCH, "%Q").unwrap_err().to_string();
        assert!(error.contains("does not know the directive `%Q`"), "{error}");
        assert!(format(UNIX_EPOCH, "100%").is_err());
    }
}
