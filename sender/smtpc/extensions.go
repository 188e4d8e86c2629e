package smtpc

import (
	"strconv"
	"strings"
)

// Extensions is what a peer offers in its answer to EHLO; the zero value after HELO.
type Extensions struct {
	Pipelining   bool  // RFC 2920
	EightBitMIME bool  // RFC 6152
	SMTPUTF8     bool  // RFC 6531
	DSN          bool  // RFC 3461
	StartTLS     bool  // RFC 3207
	Size         bool  // RFC 1870
	MaxBytes     int64 // the parameter of SIZE; 0 means no fixed limit
	// Keywords are all keywords offered, in upper case and in the peer's order, without
	// parameters; those that Config says to ignore too.
	Keywords []string
}

// parseExtensions reads the lines of an answer to EHLO; the first is the peer's name and
// greeting (RFC 5321 section 4.1.1.1).
func parseExtensions(lines []string, cfg *Config) Extensions {
	var e Extensions
	for _, line := range lines[1:] {
		keyword, param, _ := strings.Cut(strings.TrimSpace(line), " ")
		keyword = strings.ToUpper(keyword)
		if keyword == "" {
			continue
		}
		e.Keywords = append(e.Keywords, keyword)
		switch keyword {
		case "PIPELINING":
			e.Pipelining = !cfg.IgnorePipelining
		case "8BITMIME":
			e.EightBitMIME = !cfg.Ignore8BitMIME
		case "SMTPUTF8":
			e.SMTPUTF8 = true
		case "DSN":
			e.DSN = !cfg.IgnoreDSN
		case "STARTTLS":
			e.StartTLS = true
		case "SIZE":
			e.Size = true
			if n, err := strconv.ParseInt(strings.TrimSpace(param), 10, 64); err == nil && n > 0 {
				e.MaxBytes = n
			}
		}
	}
	return e
}
