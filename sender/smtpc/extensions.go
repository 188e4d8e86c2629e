package smtpc

import (
	"slices"
	"strconv"
	"strings"
)

// Extensions is what a peer offers in its answer to EHLO; the zero value after HELO.
type Extensions struct {
	Pipelining   bool  // RFC 2920
	EightBitMIME bool  // RFC 6152
	SMTPUTF8     bool  // RFC 6531
	DSN          bool  // RFC 3461
	Chunking     bool  // RFC 3030
	StartTLS     bool  // RFC 3207
	Size         bool  // RFC 1870
	MaxBytes     int64 // the parameter of SIZE; 0 means no fixed limit
	// Auth are the mechanisms of AUTH (RFC 4954) in upper case and in the peer's order.
	Auth []string
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
		if first, ok := strings.CutPrefix(keyword, "AUTH="); ok { // from before RFC 2554, still seen
			keyword, param = "AUTH", first+" "+param
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
		case "CHUNKING":
			e.Chunking = !cfg.IgnoreChunking
		case "AUTH":
			for mechanism := range strings.FieldsSeq(strings.ToUpper(param)) {
				if !slices.Contains(e.Auth, mechanism) {
					e.Auth = append(e.Auth, mechanism)
				}
			}
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
