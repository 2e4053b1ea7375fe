# What the legacy application has sold for years.
return if Product.exists?

kitchen, office = %w[Kitchen Office].map { |name| Category.create!(name: name) }
[
  [kitchen, "Kettle", "Boils one litre", 24.9, "K-17"],
  [kitchen, "Bread knife", nil, 12.5, "K-22"],
  [office, "Desk lamp", "With a shade", 39, "O-03"],
  [office, "Stapler", "Takes 24/6", 7.25, nil],
  [nil, "Gift card", "Never expires", 50, nil]
].each do |category, name, description, price, code|
  Product.create!(category: category, name: name, description: description, price: price, warehouse_code: code,
                  status: :listed)
end
