port ENV.fetch("PORT", 3001)
threads 1, 3
