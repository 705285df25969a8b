package gateway

import "testing"

// overWires runs the tests of sessions that need no bubble of time; the name
// of the test that calls it says over what (see newWorld).
func overWires(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"TwoPeopleTalkBySocket":         TestTwoPeopleTalkBySocket,
		"Handshake":                     TestHandshake,
		"NothingBeforeHello":            TestNothingBeforeHello,
		"WebSocketPing":                 TestWebSocketPing,
		"BadFrames":                     TestBadFramesAreAnsweredAndTheConnectionLives,
		"UnknownFields":                 TestUnknownFieldsAreIgnored,
		"InFlightBound":                 TestInFlightBound,
		"SessionStartRaces":             TestSessionStartRaces,
		"RevokedDeviceIsPutOut":         TestRevokedDeviceIsPutOut,
		"SessionsAreBounded":            TestSessionsAreBounded,
		"SessionsOfOnePersonAreBounded": TestSessionsOfOnePersonAreBounded,
		"LogHasNoSecrets":               TestLogOfASessionHasNoSecrets,
		"Panic":                         TestPanicIsOneRequestsProblem,
		"Admission":                     TestAdmissionRefusesBeforeWork,
	} {
		t.Run(name, test)
	}
}

func TestOverEpoll(t *testing.T) { overWires(t) }
func TestOverTLS(t *testing.T)   { overWires(t) }
