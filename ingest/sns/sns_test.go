package sns

import (
	"strings"
	"testing"

	"carom/ingest/dsn"
	"carom/ingest/mime"
)

func parse(tb testing.TB, text string) *mime.Message {
	tb.Helper()
	m, err := mime.Parse([]byte("From: no-reply@sns.mail.example\r\n\r\n"+text), mime.Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func TestParse(t *testing.T) {
	const mail = `"mail":{"source":"news@shop.example"}`
	for _, tc := range []struct {
		name, text string
		want       string // address, action, status
	}{
		{"bounce", `{"notificationType":"Bounce","bounce":{"bounceType":"Permanent","bouncedRecipients":[{"emailAddress":"a@b.example","status":"5.1.1","diagnosticCode":"smtp; 550 5.1.1 no"}]},` + mail + `}`, "a@b.example failed 5.1.1"},
		{"event publishing", `{"eventType":"Bounce","bounce":{"bounceType":"Permanent","bouncedRecipients":[{"emailAddress":"a@b.example"}]},` + mail + `}`, "a@b.example failed 5.0.0"},
		{"transient", `{"notificationType":"Bounce","bounce":{"bounceType":"Transient","bouncedRecipients":[{"emailAddress":"a@b.example"}]},` + mail + `}`, "a@b.example failed 4.0.0"},
		{"delay", `{"eventType":"DeliveryDelay","deliveryDelay":{"delayedRecipients":[{"emailAddress":"a@b.example","status":"4.4.1","diagnosticCode":"smtp; 421 later"}]},` + mail + `}`, "a@b.example delayed 4.4.1"},
		{"delivery", `{"notificationType":"Delivery","delivery":{"recipients":["a@b.example"],"smtpResponse":"250 2.6.0 ok"},` + mail + `}`, "a@b.example delivered 2.6.0"},
		{"a break of sendmail", "{\"notificationType\":\"Bounce\",\"bounce\":{\"bouncedRecipients\":[{\"emailAddress\":\"a@b!\r\n .example\",\"status\":\"5.1.1\"}]}," + mail + "}", "a@b.example failed 5.1.1"},
		{"a text behind it", `{"notificationType":"Delivery","delivery":{"recipients":["a@b.example"]},` + mail + "}\r\n--\r\nUnsubscribe: https://sns.example\r\n", "a@b.example delivered "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			bounce, complaint, ok := Parse(parse(t, tc.text))
			if !ok || complaint != nil || len(bounce.Recipients) != 1 {
				t.Fatalf("%v, %v, %v", bounce, complaint, ok)
			}
			r := bounce.Recipients[0]
			if got := r.Final + " " + string(r.Action) + " " + r.Status.String(); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func TestParseComplaint(t *testing.T) {
	for word, want := range map[string]string{`"abuse"`: "abuse", `"not-spam"`: "not-spam", `null`: "abuse", `"new"`: "other"} {
		_, c, ok := Parse(parse(t, `{"notificationType":"Complaint","complaint":{"complaintFeedbackType":`+word+`,"complainedRecipients":[{"emailAddress":"a@b.example"}]},"mail":{"source":"news@shop.example"}}`))
		if !ok || string(c.Type) != want || strings.Join(c.Recipients(), ",") != "a@b.example" || c.OriginalMailFrom != "news@shop.example" {
			t.Errorf("complaintFeedbackType %s: %+v, want type %s", word, c, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"", "Hello", "{", `{"mail":{}}`, `{"notificationType":"Bounce","mail":{}}`, `{"notificationType":"Open","mail":{}}`,
		`{"notificationType":"Bounce","bounce":{"bouncedRecipients":[{"emailAddress":"a@b.example"}]}}`, `["mail"]`,
	} {
		if bounce, complaint, ok := Parse(parse(t, text)); ok {
			t.Errorf("Parse(%q) = %v, %v", text, bounce, complaint)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"notificationType":"Bounce","bounce":{"bouncedRecipients":[{"emailAddress":"a@b.example"}]},"mail":{"headers":[{"name":"a\r\nb","value":"c"}]}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := mime.Parse(append([]byte("From: a\n\n"), text...), mime.Limits{})
		if err != nil {
			return
		}
		bounce, complaint, ok := Parse(m)
		if ok && (bounce == nil) == (complaint == nil) || ok && bounce != nil && (len(bounce.Recipients) == 0 || len(bounce.Recipients) > dsn.MaxRecipients) {
			t.Fatalf("%v, %v", bounce, complaint)
		}
	})
}
