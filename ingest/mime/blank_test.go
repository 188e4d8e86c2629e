package mime

import "testing"

// TestBlankLinesBeforeTheHeader: mbox tools and old relays leave them.
func TestBlankLinesBeforeTheHeader(t *testing.T) {
	m, err := Parse([]byte("\r\n\n\r\nSubject: a\r\n\r\nbody\r\n"), Limits{})
	if err != nil || m.Header.Get("Subject") != "a" || string(m.Parts[0].Body) != "body\r\n" {
		t.Errorf("%v, %v", m, err)
	}
	m, err = Parse([]byte("\n\nno header: of course\n not\n\n\nbody\n"), Limits{})
	if err != nil || m.Header.Len() != 0 {
		t.Errorf("%v, %v", m, err)
	}
}
