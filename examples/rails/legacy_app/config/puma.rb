bind "tcp://#{ENV.fetch("LISTEN", "127.0.0.1")}:#{ENV.fetch("PORT", 3001)}"
threads 1, 3
