// Command sarama is a peer of app.py: net/http with sarama's asynchronous producer.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"log"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

type tap struct {
	UserID    string `json:"user_id"`
	EmojiType string `json:"emoji_type"`
	Timestamp string `json:"timestamp"`
}

type event struct {
	UserID    string `json:"user_id"`
	Emoji     string `json:"emoji"`
	Timestamp string `json:"timestamp"`
}

func main() {
	port := flag.Int("port", 5000, "port on 127.0.0.1")
	brokers := flag.String("brokers", "localhost:9092", "comma-separated")
	topic := flag.String("topic", "emoji-topic", "topic of taps")
	idempotent := flag.Bool("idempotent", false, "as app.py's producer is")
	flag.Parse()

	config := sarama.NewConfig()
	config.Version = sarama.V3_6_0_0
	config.Producer.RequiredAcks = sarama.WaitForAll
	config.Producer.Flush.Frequency = 500 * time.Millisecond
	config.Producer.Compression = sarama.CompressionLZ4
	config.Producer.Idempotent = *idempotent
	if *idempotent {
		config.Net.MaxOpenRequests = 1 // sarama asks for that
	}
	producer, err := sarama.NewAsyncProducer(strings.Split(*brokers, ","), config)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		for failed := range producer.Errors() {
			log.Print(failed)
		}
	}()
	answer := []byte(`{"status":"success","message":"Emoji sent to Kafka"}`)
	http.HandleFunc("POST /send-emoji", func(w http.ResponseWriter, r *http.Request) {
		record, err := parse(w, r)
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": err.Error()})
			return
		}
		producer.Input() <- &sarama.ProducerMessage{Topic: *topic, Value: sarama.ByteEncoder(record)}
		_, _ = w.Write(answer)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+strconv.Itoa(*port), nil))
}

// parse makes the record of a request, or says what is wrong with it.
func parse(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	var t tap
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64*1024)).Decode(&t); err != nil {
		return nil, err
	}
	if t.UserID == "" || len(t.UserID) > 64 || t.EmojiType == "" || len(t.EmojiType) > 64 {
		return nil, errors.New("user_id, emoji_type: expected 1 to 64 bytes")
	}
	stamp, err := time.Parse(time.RFC3339, t.Timestamp)
	if err != nil {
		return nil, err
	}
	return json.Marshal(event{t.UserID, t.EmojiType, stamp.UTC().Format(time.RFC3339Nano)})
}
