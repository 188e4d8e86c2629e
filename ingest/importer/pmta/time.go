package pmta

import (
	"strconv"
	"time"
)

// The times that a record may have: there was no SMTP before RFC 821, and a clock that is wrong by
// decades says nothing.
var (
	earliest = time.Date(1982, 8, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
)

// time reads a time of a record: "2019-02-08 21:54:05+0000" as PowerMTA writes it, also with a "T", a
// colon in the offset, a "Z", fractions, or without an offset; and seconds since 1970 (iso-times no).
func (c *Converter) time(text string, last *stamp) (time.Time, bool) {
	if text == "" {
		return time.Time{}, false
	}
	if text == last.text {
		return last.at, true
	}
	at, ok := parseTime(text, c.options.Zone)
	if !ok || at.Before(earliest) || at.After(latest) {
		return time.Time{}, false
	}
	last.text, last.at = text, at
	return at, true
}

func parseTime(text string, zone *time.Location) (time.Time, bool) {
	if len(text) < len("2006-01-02 15:04:05") || text[4] != '-' {
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil || seconds < 0 || seconds > 1e10 {
			return time.Time{}, false
		}
		return time.UnixMicro(int64(seconds * 1e6)).UTC(), true
	}
	var n [6]int
	for i, part := range [6][2]int{{0, 4}, {5, 7}, {8, 10}, {11, 13}, {14, 16}, {17, 19}} {
		for _, digit := range []byte(text[part[0]:part[1]]) {
			if digit < '0' || digit > '9' {
				return time.Time{}, false
			}
			n[i] = 10*n[i] + int(digit-'0')
		}
	}
	if text[7] != '-' || text[10] != ' ' && text[10] != 'T' || text[13] != ':' || text[16] != ':' ||
		n[1] < 1 || n[1] > 12 || n[2] < 1 || n[2] > 31 || n[3] > 23 || n[4] > 59 || n[5] > 60 {
		return time.Time{}, false
	}
	nanos, rest := fraction(text[19:])
	offset, isLocal, ok := parseOffset(rest)
	if !ok {
		return time.Time{}, false
	}
	if isLocal {
		return time.Date(n[0], time.Month(n[1]), n[2], n[3], n[4], n[5], nanos, zone).UTC(), true
	}
	return time.Date(n[0], time.Month(n[1]), n[2], n[3], n[4], n[5], nanos, time.UTC).Add(-offset), true
}

// fraction reads a fraction of a second at the beginning of text.
func fraction(text string) (nanos int, rest string) {
	if text == "" || text[0] != '.' {
		return 0, text
	}
	unit := 100_000_000
	i := 1
	for ; i < len(text) && text[i] >= '0' && text[i] <= '9'; i++ {
		nanos += int(text[i]-'0') * unit
		unit /= 10
	}
	return nanos, text[i:]
}

// parseOffset reads "+0100", "+01:00", "+01", "Z" or nothing, which is the zone of the file.
func parseOffset(text string) (offset time.Duration, isLocal, ok bool) {
	switch {
	case text == "":
		return 0, true, true
	case text == "Z":
		return 0, false, true
	case text[0] == ' ':
		return parseOffset(text[1:])
	case len(text) == len("+01:00") && text[3] == ':':
		text = text[:3] + text[4:]
	case len(text) == len("+01"):
		text += "00"
	}
	if len(text) != len("+0100") || text[0] != '+' && text[0] != '-' {
		return 0, false, false
	}
	n, err := strconv.ParseUint(text[1:], 10, 16)
	if err != nil || n/100 > 18 || n%100 > 59 { // no zone is further from UTC
		return 0, false, false
	}
	offset = time.Duration(n/100)*time.Hour + time.Duration(n%100)*time.Minute //nolint:gosec // four digits
	if text[0] == '-' {
		offset = -offset
	}
	return offset, false, true
}
